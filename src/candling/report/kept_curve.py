"""How much of a behaviour circuits keep, by their size: found ones, random ones, those of an untrained network."""

from __future__ import annotations

import math
from collections.abc import Sequence

from markupsafe import Markup

from candling.evidence.explanation import CircuitRecord
from candling.report import numerals, svg
from candling.report.scale import within

_TOP, _BOTTOM = 30, 230
_LOW, _HIGH = -0.25, 1.25
Line = Sequence[tuple[int, float]]


def draw_kept(circuit: CircuitRecord) -> Markup:
    """Size on a logarithmic axis; shares beyond −25 % and 125 % are held at the edge."""
    points = [point for point in circuit.curve if point.edges > 0]
    parts = _grid(circuit.of)
    x = _across(circuit.edges, circuit.of)
    parts += [svg.vertical(x, _TOP - 8, _BOTTOM, "mark")]
    parts.append(svg.named(x, _TOP - 14, f"{circuit.edges:,} edges: {numerals.percent(circuit.faithfulness, 0)}"))
    low, high = [(p.edges, p.random) for p in points], [(p.edges, p.random_most) for p in points]
    lines: list[tuple[str, Line]] = [
        ("random", low),
        ("untrained", [(p.edges, p.held_out) for p in circuit.untrained if p.edges > 0]),
        ("own", [(p.edges, p.finding) for p in points]),
        ("fitted", [(p.edges, p.held_out) for p in points]),
    ]
    shapes = [Markup('<polygon class="spread" points="{}"/>').format(_path([*low, *reversed(high)], circuit.of))]
    shapes += [Markup('<polyline class="{}" points="{}"/>').format(k, _path(line, circuit.of)) for k, line in lines]
    shape = (
        '<svg width="100%" height="{h}" y="{y}" viewBox="0 0 100 100" preserveAspectRatio="none" '
        'overflow="visible">{shapes}</svg>'
    )
    parts.append(Markup(shape).format(h=_BOTTOM - _TOP, y=_TOP, shapes=Markup("").join(shapes)))
    for point in points:
        share = numerals.percent(point.held_out, 0)
        random = f"random: {numerals.percent(point.random, 0)}, at most {numerals.percent(point.random_most, 0)}"
        title = f"{point.edges:,} edges keep {share} of the held-out gap ({random})"
        parts.append(svg.dot(_across(point.edges, circuit.of), _down(point.held_out), 4, "subject", title))
    return svg.frame(parts, _BOTTOM + 26, "Share of the gap that circuits keep, by their number of edges")


def _grid(most: int) -> list[Markup]:
    parts = []
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        parts.append(svg.horizontal(0, 100, _down(share), "grid"))
        if share in (0.0, 0.5, 1.0):
            shape = '<text class="tick" x="-10" y="{}" text-anchor="end">{}</text>'
            words = numerals.percent(share, 0).replace(" %", "\u00a0%")
            parts.append(Markup(shape).format(svg.short(_down(share) + 4), words))
    parts.append(svg.horizontal(0, 100, _BOTTOM, "axis"))
    sizes = [10**power for power in range(int(math.log10(max(1, most))) + 1)]
    if most > 2 * sizes[-1]:
        sizes.append(most)
    for size in sizes:
        x = _across(size, most)
        parts += [svg.vertical(x, _BOTTOM, _BOTTOM + 4, "axis"), svg.text(x, _BOTTOM + 18, f"{size:,}", "tick")]
    return parts


def _across(size: int, most: int) -> float:
    return within(100 * math.log(max(1, size)) / math.log(max(2, most)))


def _down(share: float) -> float:
    held = min(_HIGH, max(_LOW, share)) if math.isfinite(share) else _LOW
    return _BOTTOM - (_BOTTOM - _TOP) * (held - _LOW) / (_HIGH - _LOW)


def _path(line: Line, most: int) -> str:
    height = _BOTTOM - _TOP
    return " ".join(
        f"{svg.short(_across(size, most))},{svg.short(100 * (_down(share) - _TOP) / height)}" for size, share in line
    )
