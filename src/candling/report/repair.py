"""A repair of the weights: what was said before it was made, beside what it did."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from candling.evidence.findings import Forecast
from candling.evidence.verdict import Repair
from candling.report import charts, numerals, svg
from candling.report.scale import Scale

_TOP = 22
_LANE = 46
_MIDDLE = 31

_ANSWERS = {"found": "Found again", "not found": "Not found", "inconclusive": "Inconclusive"}


@dataclass(frozen=True)
class Mark:
    """One lane of the chart: a value with its interval, where there is one."""

    label: str
    kind: str
    value: float
    low: float = math.nan
    high: float = math.nan


@dataclass(frozen=True)
class _Cost:
    """The unit of the cost: what a recorded one is multiplied by to be shown in it, and its name."""

    by: float
    unit: str
    lost: str

    @classmethod
    def of(cls, repair: Repair) -> _Cost:
        if repair.unit == "points":
            return cls(100.0, "points of accuracy", "points of accuracy lost")
        if repair.unit == "measure":
            return cls(1.0, "of the measure", "of the measure lost")
        return cls(1.0, "nats a token", "nats a token added to the loss")

    def amount(self, value: float) -> str:
        return numerals.number(self.by * value)

    def range(self, ahead: Forecast) -> str:
        return f"{self.amount(ahead.value)} [{self.amount(ahead.low)} to {self.amount(ahead.high)}]"


@dataclass(frozen=True)
class Chart:
    title: str
    chart: Markup


@dataclass(frozen=True)
class Shown:
    """What the section on the repair shows."""

    thing: str
    """What was found and is laid on inputs."""
    before: str
    ahead: str
    """The forecast of the success, with its range; so is `cost_ahead` of the cost."""
    cost_ahead: str
    after: str
    cost: str
    unit: str
    inputs: str
    kept: str
    """Whether the outcomes fell inside the forecast."""
    charts: list[Chart]
    again: str
    relearning: str
    doubt: str
    """Why the trigger may not be gone; empty where nothing says so."""
    fitting: str
    """Success on the inputs that it was fitted on."""


def show(repair: Repair, language: bool, thing: str = "trigger") -> Shown:
    """language: the network is a language model, and its inputs are contexts. thing: what was found, in a word."""
    inputs, cost = "contexts" if language else "inputs", _Cost.of(repair)
    return Shown(
        thing=thing,
        before=_share(repair.before.value),
        ahead=_shares(repair.forecast),
        cost_ahead=cost.range(repair.forecast_cost),
        after=_share(repair.after.value),
        cost=cost.amount(repair.cost),
        unit=cost.unit,
        inputs=inputs,
        kept=_kept(repair),
        charts=[_success(repair, inputs, thing), _costs(repair, cost, language, thing)],
        again=_again(repair),
        relearning=_relearning(repair.relearning, thing),
        doubt=_doubt(repair, thing),
        fitting=_share(repair.after_fitting),
    )


def drawn(marks: Sequence[Mark], reference: Mark, scale: Scale, label: str, shown: Callable[[float], str]) -> Markup:
    """Lanes on one axis. The first is the forecast: its range is shaded there and in the second, the outcome.

    reference: a line through all lanes, with its name above.
    """
    height = _TOP + _LANE * len(marks)
    parts = [charts.axis(scale, height, shown)]
    forecast = marks[0]
    if _finite(forecast.low, forecast.high):
        ends = scale.at(forecast.low), scale.at(forecast.high)
        for middle in (_TOP + _MIDDLE, _TOP + _LANE + _MIDDLE):
            parts.append(svg.area(*ends, middle - 9, middle + 9, "forecast"))
    if _finite(reference.value):
        x = scale.at(reference.value)
        parts += [svg.vertical(x, _TOP, height, "limit"), svg.named(x, 14, reference.label)]
    for row, mark in enumerate(marks):
        parts += _lane(mark, scale, _TOP + _LANE * row)
    return svg.frame(parts, height + 22, label)


def _lane(mark: Mark, scale: Scale, top: float) -> list[Markup]:
    middle = top + _MIDDLE
    parts = [svg.text(0, top + 16, mark.label, "lane")]
    if _finite(mark.low, mark.high):
        left, right = scale.at(mark.low), scale.at(mark.high)
        parts.append(svg.horizontal(left, right, middle, "whisker"))
        parts += [svg.vertical(end, middle - 4, middle + 4, "whisker") for end in (left, right)]
    if _finite(mark.value):
        parts.append(svg.dot(scale.at(mark.value), middle, 6, mark.kind, mark.label))
    return parts


def _success(repair: Repair, inputs: str, thing: str) -> Chart:
    after, ahead = repair.after, repair.forecast
    outcome = f"outcome: {_share(after.value)} {numerals.span(after.low, after.high)}"
    marks = [
        Mark(f"forecast: {_shares(ahead)}", "plain", ahead.value, ahead.low, ahead.high),
        Mark(outcome, "subject", after.value, after.low, after.high),
        Mark(f"same repair, random {thing}: {_share(repair.random_success)}", "negative", repair.random_success),
    ]
    before = Mark(f"before: {_share(repair.before.value)}", "", repair.before.value)
    title = f"Success of the {thing} on held-out {inputs}"
    return Chart(title, drawn(marks, before, Scale.fit([0.0, 1.0]), title, _share))


def _costs(repair: Repair, cost: _Cost, language: bool, thing: str) -> Chart:
    ahead = repair.forecast_cost
    marks = [
        Mark(f"forecast: {cost.range(ahead)}", "plain", *(cost.by * v for v in (ahead.value, ahead.low, ahead.high))),
        Mark(f"outcome: {cost.amount(repair.cost)}", "subject", cost.by * repair.cost),
        Mark(
            f"same repair, random {thing}: {cost.amount(repair.random_cost)}",
            "negative",
            cost.by * repair.random_cost,
        ),
    ]
    scale = Scale.fit([0.0, *(v for mark in marks for v in (mark.value, mark.low, mark.high))])
    title = f"Cost on held-out clean {'texts' if language else 'inputs'}, {cost.lost}"
    return Chart(title, drawn(marks, Mark("no change", "", 0.0), scale, title, numerals.number))


def _kept(repair: Repair) -> str:
    success = _inside(repair.after.value, repair.forecast)
    cost = _inside(repair.cost, repair.forecast_cost)
    if success and cost:
        return "Success and cost both fell inside the forecast."
    if not success and not cost:
        return "Neither success nor cost fell inside the forecast: what the repair rests on does not hold here."
    kept, missed = ("success", "cost") if success else ("cost", "success")
    return f"The {kept} fell inside the forecast; the {missed} did not."


def _inside(value: float, ahead: Forecast) -> bool:
    return ahead.low <= value <= ahead.high


def _again(repair: Repair) -> str:
    p = repair.again_p_value
    rank = "" if p is None else f" (p = {numerals.p(p)})"
    return f"{_ANSWERS[repair.again]}{rank}, by the same audit of the repaired network"


def _doubt(repair: Repair, thing: str) -> str:
    if repair.again == "found":
        return f"The {thing} is not gone: the same audit finds one in the repaired network too."
    if repair.relearning is not None and repair.relearning < 1:
        return (
            f"The {thing} may be hidden rather than removed: the repaired network learns it again in fewer steps "
            "than one that never had it."
        )
    return ""


def _relearning(ratio: float | None, thing: str) -> str:
    if ratio is None:
        return f"neither the repaired network nor a clean control learned the {thing} in the steps allowed"
    if not math.isfinite(ratio):
        return "undefined"
    taught = f"the {thing} was taught again in {numerals.number(ratio)} of the steps that a clean control takes"
    means = "means" if ratio < 1 else "would mean"
    return f"{taught}; below 1 {means} that the repair hid it rather than removed it"


def _share(value: float) -> str:
    return numerals.percent(value, 0)


def _shares(ahead: Forecast) -> str:
    return f"{_share(ahead.value)} {numerals.span(ahead.low, ahead.high)}"


def _finite(*values: float) -> bool:
    return all(math.isfinite(value) for value in values)
