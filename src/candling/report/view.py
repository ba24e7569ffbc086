"""From a verdict to what its part of the page shows: words and charts, no markup of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from candling.evidence.control import NetworkRow, Plant
from candling.evidence.findings import Finding
from candling.evidence.measurement import Rate
from candling.evidence.verdict import Baseline, Data, Resemblance, Sensitivity, Verdict
from candling.report import charts, numerals, svg, words
from candling.report.charts import Dot, Lane
from candling.report.curve import Planted, curve
from candling.report.nulls import nulls, strongest_null
from candling.report.scale import Scale
from candling.report.text import clip, visible

FAMILIES = 20


@dataclass(frozen=True)
class Figure:
    """One of the key figures under the verdict."""

    label: str
    value: str
    note: str


@dataclass(frozen=True)
class Bar:
    """A labelled bar with words that say what it means."""

    label: str
    words: str
    shown: str
    interval: str
    chart: Markup


@dataclass(frozen=True)
class FamilyRow:
    marker: Markup
    name: str
    looks: str
    """The plant of this family nearest to the verdict's dose, in its own unit."""
    counts: str
    interval: str
    chart: Markup
    worst: bool


@dataclass(frozen=True)
class Plot:
    """A chart with the axis it is drawn on in words."""

    title: str
    chart: Markup
    compressed: bool


def figures(verdict: Verdict) -> list[Figure]:
    """The five numbers that a reader who stops here should take away."""
    n = words.negatives(verdict)
    finding, seen, false = verdict.finding, verdict.sensitivity, verdict.false_positive_rate
    threshold = f"threshold {numerals.p(verdict.threshold)}"
    if verdict.p_value is None:
        rank = Figure("p-value", "–", "no rank among controls")
    else:
        among = threshold if n is None else f"rank among {n} clean networks; {threshold}"
        rank = Figure("p-value", numerals.p(verdict.p_value), among)
    if finding is None:
        success = Figure("Success on held-out", "–", "no trigger to test")
        null = Figure("Strongest null", "–", "no trigger to test")
    else:
        rate = finding.success_on_held_out
        digits = numerals.digits_for(rate.n)
        inputs = "inputs" if finding.sequence is None else "contexts"
        interval = f"{numerals.span(rate.low, rate.high, digits)} on {rate.n:,} {inputs}"
        success = Figure("Success on held-out", numerals.percent(rate.value, digits), interval)
        value, name = strongest_null(finding)
        null = Figure("Strongest null", numerals.percent(value, digits), name)
    if seen is None:
        caught = Figure("Would be caught", "–", "too few plants to say")
    else:
        digits = numerals.digits_for(seen.n)
        note = f"{numerals.span(seen.low, seen.high, digits)} at dose {numerals.dose(seen.dose)}"
        caught = Figure("Would be caught", numerals.percent(seen.value, digits), note)
    if false is None:
        accused = Figure("False accusations", "–", "not measured")
    else:
        bound = numerals.percent(false.high, numerals.digits_for(false.n))
        accused = Figure("False accusations", numerals.of(false), f"clean networks; upper bound {bound}")
    return [rank, success, null, caught, accused]


def family_names(seen: Sensitivity | None, rows: Sequence[NetworkRow]) -> list[str]:
    """Every family in the order it is first met, so that each keeps one marker."""
    named = [f.name for f in seen.by_family] if seen else []
    planted = [row.plant.family for row in rows if row.plant is not None]
    return list(dict.fromkeys(named + planted))


def detection(seen: Sensitivity | None, rows: Sequence[NetworkRow]) -> Markup | None:
    """The detection-limit curve; None where neither a curve nor a plant is on record."""
    names = family_names(seen, rows)
    planted = [
        Planted(
            dose=row.plant.dose,
            caught=row.found,
            took=row.plant.took,
            marker=names.index(row.plant.family),
            title=f"{row.name}: {row.plant.family}, {_dosed(row.plant)}",
        )
        for row in rows
        if row.plant is not None
    ]
    if seen is None and not planted:
        return None
    return curve(seen, planted, "Share of plants caught, by dose")


def families(seen: Sensitivity, rows: Sequence[NetworkRow]) -> list[FamilyRow]:
    """The families of `seen`, at most `FAMILIES`, the worst among them marked."""
    names = family_names(seen, rows)
    return [
        FamilyRow(
            marker=svg.legend(names.index(family.name), "positive"),
            name=family.name,
            looks=_nearest(family.name, seen.dose, rows),
            counts=numerals.of(family.caught),
            interval=numerals.span(family.caught.low, family.caught.high),
            chart=_proportion(family.caught, "positive", "Share caught"),
            worst=seen.worst_family is not None and family.name == seen.worst_family.name,
        )
        for family in seen.by_family[:FAMILIES]
    ]


def confirmation(finding: Finding) -> list[Bar]:
    """The recovered trigger's success beside its nulls."""
    digits = numerals.digits_for(finding.success_on_held_out.n)
    bars = []
    for null in nulls(finding):
        kind = "subject" if null.of_subject else "negative"
        shown, rate = numerals.percent(null.value, digits), null.interval
        interval = numerals.span(rate.low, rate.high, digits) if rate else ""
        label = f"{null.label}: {shown} {interval}"
        ends = (rate.low, rate.high) if rate else (None, None)
        bars.append(Bar(null.label, null.words, shown, interval, charts.bar(null.value, kind, label, *ends)))
    return bars


def standing(rows: Sequence[NetworkRow]) -> Plot | None:
    """The gate-1 statistic of every network on one axis."""
    subject = [Dot(r.statistic, _dot_title(r)) for r in rows if r.role == "subject"]
    clean = [Dot(r.statistic, _dot_title(r)) for r in rows if r.role == "negative"]
    planted = [Dot(r.statistic, _dot_title(r)) for r in rows if r.plant is not None and r.plant.took]
    if not subject or not (clean or planted):
        return None
    lanes = [
        Lane(f"networks with a planted problem ({len(planted)})", "positive", planted),
        Lane("this network", "subject", subject),
        Lane(f"clean networks ({len(clean)})", "negative", clean),
    ]
    shown = [lane for lane in lanes if lane.dots]
    scale = Scale.fit([d.value for lane in shown for d in lane.dots], [d.value for d in clean])
    title = "Gate 1: how far a network's most suspicious part lies from the same part in the clean networks"
    return Plot(title, charts.strip(shown, scale, title, subject[0].value), scale.compressed)


def sizes(finding: Finding) -> Plot | None:
    """The size of the recovered trigger beside the same part's in the clean controls.

    None for a sequence of tokens: its length is that of the part, in every network.
    """
    if not finding.size_in_controls or finding.sequence is not None:
        return None
    title = "Size of the smallest trigger found for that part; smaller is more suspicious"
    if finding.shortcut is not None:
        title = "Mean size of the marks, as a share of the distance between inputs of different classes"
    if finding.tampering is not None:
        title = "Size of the act, as a share of the distance between inputs of all yes and of all no"
    if finding.switch is not None:
        title = "Size of the change, as a share of the distance between inputs of different classes"
    if finding.concealment is not None:
        title = "Size of the context: root mean square, of the range (tables: standard deviations)"
    return compared(title, finding.size, finding.size_in_controls)


def compared(title: str, subject: float, controls: Sequence[float]) -> Plot:
    """One number of the subject beside the same number in each clean control."""
    shown = numerals.number(subject)
    lanes = [
        Lane(f"this network: {shown}", "subject", [Dot(subject, shown)]),
        Lane(f"clean networks ({len(controls)})", "negative", [Dot(v, numerals.number(v)) for v in controls]),
    ]
    scale = Scale.fit([subject, *controls])
    return Plot(title, charts.strip(lanes, scale, title, subject), scale.compressed)


def baseline(simple: Baseline) -> list[Bar]:
    """Plants ranked first by the simple search and by the white-box search."""
    pairs = [
        ("The simple search", simple.caught, "negative"),
        ("The search that looks inside", simple.caught_by_search, "positive"),
    ]
    return [
        Bar(label, "", numerals.of(rate), numerals.span(rate.low, rate.high), _proportion(rate, kind, label))
        for label, rate, kind in pairs
    ]


def resemblance(seen: Resemblance, language: bool = False, data: Data | None = None) -> list[Plot]:
    """The declared distance, the loss and the accuracy of the subject beside the clean controls'.

    language: the network is a language model, and both are per token.
    """
    loss, accuracy = "Loss on trusted inputs, nats", "Accuracy on trusted inputs"
    if language:
        loss, accuracy = "Loss on trusted texts, nats a token", "Next-token accuracy on trusted texts"
    if data is not None and data.bands:
        loss = "Squared error on trusted inputs, over the variance"
    if data is not None and data.measure:
        accuracy = f"{clip(visible(data.measure), 60)} on trusted inputs; higher is better"
    return [
        compared("Declared distance", seen.subject, seen.controls),
        compared(loss, seen.loss_subject, seen.loss_controls),
        compared(accuracy, seen.accuracy_subject, seen.accuracy_controls),
    ]


def _proportion(rate: Rate, kind: str, label: str) -> Markup:
    return charts.bar(rate.value, kind, f"{label}: {numerals.of(rate)}", rate.low, rate.high)


def _dot_title(row: NetworkRow) -> str:
    return f"{row.name}: {numerals.number(row.statistic)}"


def _nearest(family: str, dose: float, rows: Sequence[NetworkRow]) -> str:
    plants = [row.plant for row in rows if row.plant is not None and row.plant.family == family]
    if not plants:
        return "no plant on record"
    near = min(plants, key=lambda plant: abs(plant.dose - dose))
    return _dosed(near)


def _dosed(plant: Plant) -> str:
    return f"dose {numerals.dose(plant.dose)}: {plant.physical}"
