"""The detection-limit curve: how likely a plant was to be caught, by its dose."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from candling.evidence.verdict import DosePoint, Sensitivity
from candling.report import numerals, svg, words
from candling.report.charts import DRAWN_AT_MOST, dodged
from candling.report.scale import within

_TOP, _BOTTOM = 84, 264
_LANE = 24
_ROWS = 3


@dataclass(frozen=True)
class Planted:
    """One positive control as the curve shows it."""

    dose: float
    caught: bool
    took: bool
    marker: int
    title: str


def curve(sensitivity: Sensitivity | None, planted: Sequence[Planted], label: str) -> Markup:
    """The fitted curve with its band, above and below it the plants caught and missed, each at its dose.

    The dose that the verdict speaks of and the detection limit are lines with a name. Plants that did not
    take stand apart, hollow. Drawn in a fixed height with places in percent; at most `DRAWN_AT_MOST` plants.
    """
    drawn = sorted((p for p in planted if math.isfinite(p.dose)), key=lambda p: p.dose)[:DRAWN_AT_MOST]
    lanes = [("caught", _TOP - 20, [p for p in drawn if p.took and p.caught])]
    lanes.append(("missed", _BOTTOM + 20, [p for p in drawn if p.took and not p.caught]))
    failed = [p for p in drawn if not p.took]
    if failed:
        lanes.append(("did not take", _BOTTOM + 20 + _LANE + 4, failed))
    floor = lanes[-1][1] + 16
    parts = _grid(floor)
    if sensitivity is not None:
        parts += [_fitted(sensitivity.by_dose), *_marks(sensitivity, floor)]
    for name, middle, members in lanes:
        parts.append(_beside(middle, name, "side"))
        parts += _lane(members, middle)
    return svg.frame(parts, floor + 22, label)


def height_of(share: float) -> float:
    """Pixels from the top for a share caught; a larger share is never lower."""
    return _BOTTOM - (_BOTTOM - _TOP) * within(100 * share) / 100


def _grid(floor: float) -> list[Markup]:
    parts = []
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        y = height_of(share)
        parts.append(svg.horizontal(0, 100, y, "grid"))
        if share in (0.0, 0.5, 1.0):
            parts.append(_beside(y, numerals.percent(share, 0), "tick"))
    parts.append(svg.horizontal(0, 100, floor, "axis"))
    for dose in (0.0, 0.25, 0.5, 0.75, 1.0):
        parts.append(svg.vertical(100 * dose, floor, floor + 4, "axis"))
        parts.append(svg.text(100 * dose, floor + 18, numerals.number(dose), "tick"))
    return parts


def _beside(y: float, name: str, kind: str) -> Markup:
    """A label in the margin left of the axis."""
    shape = '<text class="{}" x="-10" y="{}" text-anchor="end">{}</text>'
    return Markup(shape).format(kind, svg.short(y + 4), name.replace(" %", "\u00a0%"))


def _fitted(by_dose: Sequence[DosePoint]) -> Markup:
    points = sorted((p for p in by_dose if _finite(p)), key=lambda p: p.dose)
    line = _path([(p.dose, p.value) for p in points])
    band = _path([(p.dose, p.high) for p in points] + [(p.dose, p.low) for p in reversed(points)])
    shape = (
        '<svg width="100%" height="{h}" y="{y}" viewBox="0 0 100 100" preserveAspectRatio="none">'
        '<polygon class="band" points="{band}"/><polyline class="fitted" points="{line}"/></svg>'
    )
    return Markup(shape).format(h=_BOTTOM - _TOP, y=_TOP, band=band, line=line)


def _path(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{svg.short(within(100 * x))},{svg.short(100 - within(100 * y))}" for x, y in points)


def _finite(point: DosePoint) -> bool:
    return all(math.isfinite(v) for v in (point.dose, point.value, point.low, point.high))


def _marks(seen: Sensitivity, floor: float) -> list[Markup]:
    x = within(100 * seen.dose)
    at = f"dose {numerals.dose(seen.dose)}: {words.caught(seen)}"
    parts = [svg.vertical(x, 20, floor, "mark")]
    if math.isfinite(seen.low) and math.isfinite(seen.high):
        parts.append(svg.vertical(x, height_of(seen.high), height_of(seen.low), "whisker"))
    parts += [svg.dot(x, height_of(seen.value), 5, "point", at), svg.named(x, 14, at)]
    if seen.detection_limit is not None:
        parts += _limit(seen.detection_limit, x, floor)
    return parts


def _limit(limit: tuple[float, float], dose: float, floor: float) -> list[Markup]:
    """A bar over the doses at which the curve is high enough, with a line down from each end inside.

    The name stands on the side away from the line at `dose` percent.
    """
    start, stop = within(100 * limit[0]), within(100 * limit[1])
    inside = [x for x in (start, stop) if 0 < x < 100]
    lines = [svg.vertical(x, 42, floor, "limit") for x in inside]
    name, place = words.limit_name(limit), inside[0] if inside else 50.0
    side = "middle" if not inside else "start" if place >= dose or place < 25 else "end"
    return [*lines, svg.horizontal(start, stop, 42, "enough"), svg.named(place, 34, name, side)]


def _lane(members: Sequence[Planted], middle: float) -> list[Markup]:
    places = [within(100 * p.dose) for p in members]
    offsets = [(row - (_ROWS - 1) / 2) * 7 for row in (1, 0, 2)]
    return [
        svg.sign(x, middle + offsets[row], p.marker, "positive" if p.took else "hollow", p.title)
        for p, x, row in zip(members, places, dodged(places, _ROWS), strict=True)
    ]
