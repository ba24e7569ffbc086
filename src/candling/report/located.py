"""Where it sits: the units or the direction that carry what was found, in a sentence and in bars."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from candling.evidence.findings import Located, LocatedContrast, LocatedDirection, Where
from candling.report import charts, numerals
from candling.report.view import Bar

UNITS = 40
"""Units that are named; the others are counted."""


@dataclass(frozen=True)
class Place:
    """What the page says of it."""

    site: str
    before: str
    """Of the sentence, what stands before the site."""
    after: str
    note: str
    bars: list[Bar]


def show(where: Where) -> Place:
    if isinstance(where, LocatedContrast):
        return _contrast(where)
    return _units(where) if isinstance(where, Located) else _direction(where)


def _contrast(where: LocatedContrast) -> Place:
    return Place(
        site=where.site,
        before=f"In one direction of the {where.units:,} numbers at",
        after=": how its states differ under the change, on average. Added to unchanged inputs, it calls up the "
        "behaviour as far as one direction can; taken away under the change, it gives right answers back.",
        note="",
        bars=_bars(
            [
                ("Behaviour under the change of inputs itself", where.success, "subject"),
                ("… on unchanged inputs, with the direction added", where.elicited, "subject"),
                (
                    f"… with a random direction of its length instead (highest of {where.random_directions:,})",
                    where.random_elicited,
                    "negative",
                ),
                ("Right answers under the change", where.accuracy_changed, "plain"),
                ("… with the direction taken away", where.accuracy_restored, "plain"),
            ]
        ),
    )


def _units(where: Located) -> Place:
    many, more = len(where.units) != 1, len(where.units) - UNITS
    named = ", ".join(map(str, where.units[:UNITS])) + (f" and {more:,} more" if more > 0 else "")
    silenced = f"… with {'these' if many else 'this'} {len(where.units):,} unit{'s' if many else ''} silenced"
    return Place(
        site=where.site,
        before=f"In {len(where.units):,} of {where.site_width:,} units at",
        after=f": {named}.",
        note="",
        bars=_bars(
            [
                ("Trigger's success, network as given", where.success_before, "subject"),
                (silenced, where.success_after, "subject"),
                (
                    f"… with as many random units silenced instead (mean of {where.random_sets:,} draws)",
                    where.random_success_after,
                    "negative",
                ),
                ("Accuracy on clean inputs, network as given", where.accuracy_before, "plain"),
                (silenced, where.accuracy_after, "plain"),
            ]
        ),
    )


def _direction(where: LocatedDirection) -> Place:
    cost = where.loss_after - where.loss_before
    return Place(
        site=where.site,
        before=f"In one direction of {where.width:,} dimensions after",
        after=", the first block where putting one direction back to its usual value undoes at least half of it.",
        note=f"Text as it is then costs {numerals.number(cost)} nats a token. "
        "This is evidence of where it acts, not the repair: no weight is changed.",
        bars=_bars(
            [
                ("Sequence's success, network as given", where.success_before, "subject"),
                ("… with the direction projected out", where.success_after, "subject"),
                (
                    f"… with a random direction instead (mean of {where.random_directions:,} draws)",
                    where.random_success_after,
                    "negative",
                ),
            ]
        ),
    )


def _bars(rows: Iterable[tuple[str, float, str]]) -> list[Bar]:
    return [
        Bar(label, "", shown, "", charts.bar(value, kind, f"{label}: {shown}"))
        for label, value, kind in rows
        for shown in [numerals.percent(value)]
    ]
