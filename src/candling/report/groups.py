"""Untrusted inputs of a classifier: how many stand out, which together, and what answers them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from candling.evidence.untrusted import Calibration, FlaggedInputs, Group
from candling.report import charts, numerals, pixels
from candling.report.view import Bar

GROUPS = 8
_CLASSES = 5
_HEADS = {
    "generalised": "Generalised: answered as trusted inputs are",
    "other mechanism": "Another mechanism gives these answers",
    "cannot tell": "Cannot tell: neither the trusted mechanism nor a known way to cheat",
}


@dataclass(frozen=True)
class Shown:
    """One group."""

    head: str
    odd: bool
    words: str
    bars: list[Bar]
    pictures: list[Markup]


@dataclass(frozen=True)
class Section:
    """What the section on untrusted inputs shows."""

    flagged: str
    copies: str
    groups: list[Shown]
    left: int
    worth: list[Bar]
    baseline_wins: bool


def show(found: FlaggedInputs, groups: Sequence[Group], arrays: Mapping[str, NDArray[Any]]) -> Section:
    known = found.calibration
    return Section(
        flagged=_flagged(found),
        copies=f"{found.near_copies:,} of them nearly repeat a trusted input." if found.near_copies else "",
        groups=[_group(group, arrays.get(f"groups.{i}")) for i, group in enumerate(groups[:GROUPS])],
        left=max(0, len(groups) - GROUPS),
        worth=_worth(known) if known else [],
        baseline_wins=known is not None and known.baseline_caught.value >= known.caught.value,
    )


def _flagged(found: FlaggedInputs) -> str:
    expected = numerals.roughly(found.threshold * found.n)
    return (
        f"{found.flagged:,} of {found.n:,} untrusted inputs stand out inside more than all but "
        f"{numerals.number(100 * found.threshold)} % of held-out trusted ones; of as many inputs like the trusted "
        f"ones about {expected} would. Output confidence flags {found.by_confidence:,} of them."
    )


def _group(group: Group, examples: NDArray[Any] | None) -> Shown:
    most = sorted(group.predicted, key=lambda each: -each.n)
    named = ", ".join(f"class {each.label} ({each.n:,})" for each in most[:_CLASSES])
    named += f" and {len(most) - _CLASSES} classes more" if len(most) > _CLASSES else ""
    rows = [
        ("Another mechanism", group.p, "subject"),
        ("Something rightly new", group.p_new, "plain"),
        ("The trusted mechanism", group.p_generalised, "plain"),
        ("Another mechanism, seen from outside alone", group.baseline_p, "negative"),
    ]
    return Shown(
        head=_HEADS[group.answer],
        odd=group.answer == "other mechanism",
        words=_decided(group)
        + (
            f"{group.n:,} inputs, answered {named} with a mean confidence of {numerals.percent(group.confidence)}. "
            f"Swapping in what matters for trusted inputs moves them {numerals.number(group.reuse)} times as often "
            "as it moves trusted ones."
        ),
        bars=_bars(rows),
        pictures=_pictures(examples),
    )


def _decided(group: Group) -> str:
    """What the user's word did, where there was one."""
    if group.stay is None:
        return ""
    kept = f"{numerals.percent(group.stay)} of its answers stay when all but the legitimate cells are exchanged"
    if group.judged is None:
        return f"{kept}. "
    return f"By the user's word on what may be read: {kept}. Without that word the answer would be: {group.judged}. "


def _bars(rows: Sequence[tuple[str, float, str]]) -> list[Bar]:
    return [
        Bar(label, "", shown, "", charts.bar(value, kind, f"{label}: {shown}"))
        for label, value, kind in rows
        for shown in [numerals.percent(value)]
    ]


def _pictures(examples: NDArray[Any] | None) -> list[Markup]:
    """None for tables."""
    if examples is None or examples.ndim != 4 or not examples.size:
        return []
    values = np.nan_to_num(examples.astype(np.float64))
    low, high = values.min(), values.max()
    scaled = (values - low) / ((high - low) or 1.0)
    return [pixels.picture(one, f"Untrusted input {i + 1} of the group") for i, one in enumerate(scaled)]


def _worth(known: Calibration) -> list[Bar]:
    """Of controls whose family the judge had not seen."""
    rows = [
        ("Cheating controls caught", known.caught, "positive"),
        ("… from outside alone, by swapping parts of inputs", known.baseline_caught, "negative"),
        ("Honest controls left in peace", known.honest, "plain"),
        ("Controls with something rightly new, accused", known.novel, "subject"),
        ("… from outside alone", known.baseline_novel, "negative"),
        ("Honest and cheating told apart by confidence alone", known.confidence_right, "negative"),
    ]
    return [
        Bar(
            label,
            "",
            numerals.of(rate),
            numerals.span(rate.low, rate.high),
            charts.bar(rate.value, kind, f"{label}: {numerals.of(rate)}"),
        )
        for label, rate, kind in rows
    ]
