"""Charts as inline SVG. Places along the width are percentages: any width fits, and text keeps its size."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from candling.report import numerals, svg
from candling.report.scale import Scale, within

DRAWN_AT_MOST = 300
_LANE = 46
_TOO_NEAR = 1.7


@dataclass(frozen=True)
class Dot:
    value: float
    title: str


@dataclass(frozen=True)
class Lane:
    """One row of a strip plot. `kind` is `subject`, `negative` or `positive`."""

    label: str
    kind: str
    dots: Sequence[Dot]


def strip(lanes: Sequence[Lane], scale: Scale, label: str, mark: float | None = None) -> Markup:
    """Dots on one axis, a lane for each kind of network; `mark` draws a line through all lanes."""
    height = _LANE * len(lanes)
    parts = [axis(scale, height)]
    if mark is not None and math.isfinite(mark):
        parts.append(svg.vertical(scale.at(mark), 16, height, "mark"))
    for row, lane in enumerate(lanes):
        parts.append(svg.text(0, _LANE * row + 13, lane.label, "lane"))
        parts += _swarm(lane, scale, _LANE * row + 30)
    return svg.frame(parts, height + 22, label)


def bar(value: float, kind: str, label: str, low: float | None = None, high: float | None = None) -> Markup:
    """A proportion as a bar on a track from 0 to 1, with its interval as a whisker."""
    parts = [svg.box(0, 100, "track")]
    if math.isfinite(value):
        parts.append(svg.box(0, within(100 * value), kind))
    if low is not None and high is not None and math.isfinite(low) and math.isfinite(high):
        left, right = within(100 * low), within(100 * high)
        parts.append(svg.horizontal(left, right, 10, "whisker"))
        parts += [svg.vertical(end, 6, 14, "whisker") for end in (left, right)]
    return svg.frame(parts, 20, label)


def change(value: float, most: float, signed: bool, label: str) -> Markup:
    """A feature's change as a bar: from the left edge, or from the middle where signs differ."""
    share = within(100 * abs(value) / most) if most > 0 else 0.0
    width = share / 2 if signed else share
    start = 50 - width if signed and value < 0 else 50.0 if signed else 0.0
    parts = [svg.box(0, 100, "track"), svg.box(start, width, "subject")]
    if signed:
        parts.append(svg.vertical(50, 1, 19, "whisker"))
    return svg.frame(parts, 20, label)


def axis(scale: Scale, y: float, shown: Callable[[float], str] = numerals.number) -> Markup:
    """A line at `y` with its ticks; `shown` writes the number under each."""
    parts = [svg.horizontal(0, 100, y, "axis")]
    for tick in scale.ticks():
        x = scale.at(tick)
        parts.append(svg.vertical(x, y, y + 4, "axis"))
        parts.append(svg.text(x, y + 18, shown(tick), "tick"))
    return Markup("").join(parts)


def dodged(places: Sequence[float], rows: int) -> list[int]:
    """For sorted `places` in percent, the row of each, so that neighbours do not cover each other."""
    last = [-math.inf] * rows
    taken = []
    for place in places:
        free = [row for row in range(rows) if place - last[row] >= _TOO_NEAR]
        row = free[0] if free else last.index(min(last))
        last[row] = place
        taken.append(row)
    return taken


def thinned(dots: Sequence[Dot]) -> list[Dot]:
    """The finite dots in order; above `DRAWN_AT_MOST`, evenly spaced ranks with both extremes."""
    kept = sorted((d for d in dots if math.isfinite(d.value)), key=lambda d: d.value)
    if len(kept) <= DRAWN_AT_MOST:
        return kept
    step = (len(kept) - 1) / (DRAWN_AT_MOST - 1)
    return [kept[round(i * step)] for i in range(DRAWN_AT_MOST)]


def _swarm(lane: Lane, scale: Scale, middle: float) -> list[Markup]:
    dots = thinned(lane.dots)
    places = [scale.at(d.value) for d in dots]
    offsets = (0.0, -5.0, 5.0)
    radius = 6 if lane.kind == "subject" else 4
    return [
        svg.dot(x, middle + offsets[row], radius, lane.kind, d.title)
        for d, x, row in zip(dots, places, dodged(places, len(offsets)), strict=True)
    ]
