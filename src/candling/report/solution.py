"""The page of a solution: one HTML file, offline, drawn from the record alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np
from markupsafe import Markup

from candling.evidence.control import RunInfo
from candling.evidence.measurement import Rate
from candling.evidence.program import Program, run_program
from candling.evidence.solution import Histogram, Solution
from candling.report import charts, numerals, svg
from candling.report.page import environment
from candling.report.program_text import program_source
from candling.report.text import terminal_safe
from candling.report.view import Figure

_WIDEST = 72
"""Cells to a side of the picture of a grid."""


@dataclass(frozen=True)
class Row:
    """A labelled bar."""

    label: str
    words: str
    shown: str
    interval: str
    chart: Markup


def draw_solution(said: Solution, info: RunInfo) -> str:
    """One HTML page."""
    return (
        environment()
        .get_template("solution.html.j2")
        .render(
            said=said,
            info=info,
            headline=headline(said),
            figures=figures(said),
            source=_lines(said),
            pictures=[_histogram(each) for each in said.histograms],
            grid=_grid(said.program, said.sides) if said.program is not None and said.sides else None,
            exemplars=[(each.row, _picture(each.pixels)) for each in said.exemplars],
            agreement=agreement_rows(said),
            rivals=rival_rows(said),
            site=site_rows(said),
            curve=_curve(said),
            settings=[(name, value) for name, value in sorted(info.settings.items()) if value is not None],
        )
    )


def _lines(said: Solution) -> list[str]:
    """Of `program.py`, one by one: within a line, a line break would be shown as what it is."""
    if said.program is None:
        return []
    return program_source(said.program, said.outcome.capitalize(), said.exemplars).splitlines()


def headline(said: Solution) -> str:
    """The result in one sentence."""
    words = {
        "solved": "Solved",
        "behaviour only": "Behaviour only",
        "not solved": "Not solved",
        "did not learn a program": "This network did not learn a program",
    }
    return f"{words[said.outcome]}: {said.reason}"


def figures(said: Solution) -> list[Figure]:
    """The numbers that a reader who stops here should take away."""
    null = max((each.agreement.value for each in said.nulls), default=0.0)
    rows = [Figure("Inputs", f"{said.inputs:,}", f"{said.proposing:,} proposed, the others verified")]
    if said.agreement is not None and said.confident is not None:
        rows = [
            Figure("Agreement", _share(said.agreement), f"of {said.agreement.n:,} held-out inputs"),
            Figure("Where it is sure", _share(said.confident), "the half with the larger margin"),
            Figure("Best null", numerals.percent(null), "commonest answer, untrained networks"),
            Figure("Length", f"{said.bits:.0f} bits", f"the best of {said.tried:,} features"),
            *rows,
        ]
    return rows[:5]


def _share(rate: Rate) -> str:
    return numerals.percent(rate.value, numerals.digits_for(rate.n))


def _bar(label: str, words: str, rate: Rate, kind: str) -> Row:
    chart = charts.bar(rate.value, kind, f"{label}: {_share(rate)}", rate.low, rate.high)
    return Row(label, words, _share(rate), numerals.span(rate.low, rate.high), chart)


def agreement_rows(said: Solution) -> list[Row]:
    """The program beside the nulls."""
    rows = [_bar("The program", said.says, said.agreement, "subject")] if said.agreement else []
    rows += [_bar(each.name.capitalize(), "", each.agreement, "negative") for each in said.nulls]
    return rows + [
        _bar(each.name.capitalize(), "says nothing of what it computes", each.agreement, "negative")
        for each in said.rivals
        if each.program is None
    ]


def rival_rows(said: Solution) -> list[Row]:
    """With whom the network sides where the program and a rival differ."""
    told = {True: "refuted", False: "not refuted", None: "too few inputs to tell"}
    return [
        _bar(each.name, f"{each.sides.n:,} inputs tell them apart; {told[each.refuted]}", each.sides, "subject")
        for each in said.rivals
    ]


def site_rows(said: Solution) -> list[Row]:
    """What was done to the claimed units, and what came out."""
    site = said.site
    if site is None:
        return []
    return [
        _bar("Answer follows the donor", "when the claimed units are patched", site.follows, "subject"),
        _bar("The same with random units", "as many, drawn from the others", site.follows_random, "negative"),
        _bar("Answer stays", "when all other units are patched", site.stays, "subject"),
        _bar(
            "As the program forecasts", "on pairs where it or the network predicts a change", site.forecast, "subject"
        ),
        _bar("Agreement left without the units", "each resampled on its own", site.ablated, "subject"),
        _bar("Agreement left without random units", "as many others", site.ablated_others, "negative"),
    ]


def _histogram(shown: Histogram) -> tuple[str, Markup]:
    """Bars over the score: answer 1 above the line, the others below."""
    counts = np.asarray(shown.counts)
    one = counts[:, 1] if counts.shape[1] > 1 else counts[:, 0] * 0
    other = counts.sum(1) - one
    most, width = max(1, int(max(one.max(), other.max()))), 100 / len(counts)
    parts = [svg.horizontal(0, 100, 70, "axis")]
    for place in range(len(counts)):
        for count, kind, up in ((one[place], "one", True), (other[place], "other", False)):
            height = 62 * sqrt(count / most)
            top = 70 - height if up else 70
            parts.append(svg.area(place * width + 0.1 * width, (place + 0.9) * width, top, top + height, kind))
    ends = [(0.0, shown.edges[0]), (99.9, shown.edges[-1])]
    parts += [svg.text(x, 150, numerals.number(_whole(edge, x > 0)), "tick") for x, edge in ends]
    return shown.score, svg.frame(parts, 156, f"{shown.score}: inputs by score and the network's answer")


def _whole(edge: float, last: bool) -> float:
    """The value at the end of a bin that is centred on a whole number."""
    return edge + (-0.5 if last else 0.5) if (2 * edge) % 2 == 1 else edge


def _grid(program: Program, sides: Sequence[int]) -> Markup | None:
    """What the program answers over the whole grid, a cell each."""
    across, down = (int(side) for side in sides)
    if max(across, down) > _WIDEST:
        return None
    a, b = np.meshgrid(np.arange(across), np.arange(down), indexing="ij")
    said = run_program(program, {"a": a.ravel(), "b": b.ravel()}).reshape(across, down)
    cells = []
    for row in range(down):
        start = 0
        for column in range(1, across + 1):  # runs of one answer are one rectangle
            if column == across or said[column, row] != said[start, row]:
                if said[start, row] != 0:
                    kind = "one" if said[start, row] == 1 else "more"
                    cells.append(
                        Markup('<rect class="{}" x="{}" y="{}" width="{}" height="1"/>').format(
                            kind, start, down - 1 - row, column - start
                        )
                    )
                start = column
    return Markup(
        '<svg class="grid" viewBox="0 0 {0} {1}" role="img"><title>{2}</title>'
        '<rect class="ground" width="{0}" height="{1}"/>{3}</svg>'
    ).format(across, down, "what the program answers to every pair", Markup("").join(cells))


def _picture(pixels: Sequence[Sequence[float]]) -> Markup:
    """An image, a rectangle a pixel, the brightest the darkest in print."""
    most = max((max(line) for line in pixels), default=1.0) or 1.0
    cells = [
        Markup('<rect class="ink" x="{}" y="{}" width="1" height="1" fill-opacity="{}"/>').format(
            column, row, svg.short(min(1.0, max(0.0, value / most)))
        )
        for row, line in enumerate(pixels)
        for column, value in enumerate(line)
        if value > 0
    ]
    shape = '<svg class="grid small" viewBox="0 0 {} {}" role="img"><title>{}</title>{}</svg>'
    return Markup(shape).format(len(pixels[0]), len(pixels), "an exemplar", Markup("").join(cells))


def _curve(said: Solution) -> Markup | None:
    """Forecast and observed share of answer 1, by the donor's score."""
    if said.site is None or len(said.site.curve.scores) < 2:
        return None
    curve = said.site.curve
    low, high = min(curve.scores), max(curve.scores)
    place = [2 + 96 * (score - low) / ((high - low) or 1) for score in curve.scores]
    parts = [svg.horizontal(0, 100, y, "grid") for y in (10, 60, 110)]
    parts += [svg.text(0, 14, "100 %", "tick"), svg.text(0, 114, "0 %", "tick")]
    for x, forecast, observed, n in zip(place, curve.forecast, curve.observed, curve.n, strict=True):
        title = f"{n} pairs: forecast {numerals.percent(forecast)}, observed {numerals.percent(observed)}"
        parts.append(svg.dot(x, 110 - 100 * forecast, 6, "forecast", title))
        parts.append(svg.dot(x, 110 - 100 * observed, 4, "subject", title))
    parts += [svg.text(0, 132, numerals.number(low), "tick"), svg.text(99, 132, numerals.number(high), "tick")]
    return svg.frame(parts, 138, "Share of answer 1 by the donor's score")


def summary(said: Solution) -> list[str]:
    """Lines for a terminal: safe to print."""
    lines = [headline(said) + ".", f"Program: {said.says}  ({said.bits:.0f} bits)"]
    if said.agreement is not None:
        rate, null = said.agreement, max((each.agreement.value for each in said.nulls), default=0.0)
        lines.append(
            f"Agreement {_share(rate)} {numerals.span(rate.low, rate.high)} of {rate.n:,} held-out inputs; "
            f"best null {numerals.percent(null)}."
        )
    return [terminal_safe(line) for line in lines]
