"""Sentences in plain language, every number from the verdict. Shared by the page and the terminal."""

from __future__ import annotations

import math
from dataclasses import dataclass

from candling.evidence.measurement import Rate
from candling.evidence.verdict import Baseline, Finding, Resemblance, Sensitivity, Verdict
from candling.report import numerals
from candling.report.text import visible

STATUS = {"found": "Found", "not found": "Not found", "inconclusive": "Inconclusive"}


@dataclass(frozen=True)
class Null:
    """One bar of the confirming experiment, with what it rules out."""

    label: str
    words: str
    value: float
    interval: Rate | None
    of_subject: bool


def headline(verdict: Verdict) -> str:
    """The verdict in one sentence, without HTML and safe to print."""
    if verdict.verdict == "found":
        return _found(verdict)
    if verdict.verdict == "not found":
        return _not_found(verdict)
    return visible(f"Inconclusive – {_stop(verdict.reason)}")


def negatives(verdict: Verdict) -> int | None:
    """How many clean controls the verdict rests on."""
    if verdict.false_positive_rate is not None:
        return verdict.false_positive_rate.n
    if verdict.finding is not None and verdict.finding.size_in_controls:
        return len(verdict.finding.size_in_controls)
    return None if verdict.negatives_confirmed is None else verdict.negatives_confirmed.n


def trigger(finding: Finding) -> str:
    """The trigger as a noun: `a pattern of about 7.5 cells`."""
    size = numerals.roughly(finding.size)
    if "patch" in finding.objective.lower():
        return f"a pattern of about {size} {'cell' if size == '1' else 'cells'}"
    if "additive" in finding.objective.lower():
        return f"a pattern of size {size} (L2 norm) added to the input"
    return f"a pattern of size {size}"


def effect(finding: Finding) -> str:
    """What the trigger does, as a verb: `sends any input to class 1`."""
    single = finding.source.strip().lower() not in {"any", ""}
    name = finding.source.strip().removeprefix("class").strip()
    who = f"inputs of class {name}" if single else "any input"
    if finding.target is not None:
        return f"sends {who} to class {finding.target}"
    if finding.shift is not None:
        return f"moves the class of {who} on by {finding.shift}"
    return f"changes the class of {who}"


def rank(p_value: float | None, n: int | None) -> str:
    """The gate-1 rank in words, with what the number of controls can resolve."""
    if p_value is None or not math.isfinite(p_value):
        return "no rank among controls"
    shown = f"p = {numerals.p(p_value)}"
    if n is None:
        return shown
    above = above_subject(p_value, n)
    if above <= 0:
        return f"{shown}, the smallest that {n} controls resolve"
    return f"{shown}, {above} of {n} clean networks {'scores' if above == 1 else 'score'} as high"


def above_subject(p_value: float, n: int) -> int:
    """Clean controls at or above the subject, from p = (1 + above) / (n + 1)."""
    return round(p_value * (n + 1)) - 1


def strongest_null(finding: Finding) -> tuple[float, str]:
    """The highest success among the three nulls, and which one it was."""
    return max(
        (finding.success_of_random_trigger, "random triggers"),
        (finding.best_in_controls, "clean networks' own triggers"),
        (finding.success_in_controls, "this trigger on clean networks"),
        key=lambda pair: pair[0],
    )


def nulls(finding: Finding) -> list[Null]:
    """The recovered trigger and its three nulls, strongest rival explanations in plain words."""
    held_out = finding.success_on_held_out
    return [
        Null(
            "The recovered trigger on this network",
            f"Measured on {held_out.n:,} inputs that the search never saw.",
            held_out.value,
            held_out,
            True,
        ),
        Null(
            "Random triggers of the same size",
            f"Highest of {finding.random_triggers:,}. Rules out that any disturbance this large would do it.",
            finding.success_of_random_trigger,
            None,
            False,
        ),
        Null(
            "Clean networks' own best triggers at this size",
            "Highest over the clean controls. Rules out a weakness that every network of this kind has.",
            finding.best_in_controls,
            None,
            False,
        ),
        Null(
            "The recovered trigger on clean networks",
            "Highest over the clean controls. Rules out that the pattern simply looks like the target class.",
            finding.success_in_controls,
            None,
            False,
        ),
    ]


def caught(sensitivity: Sensitivity) -> str:
    """`89 % [67–99]`, at the dose that the verdict speaks of."""
    digits = numerals.digits_for(sensitivity.n)
    interval = numerals.span(sensitivity.low, sensitivity.high, digits)
    return f"{numerals.percent(sensitivity.value, digits)} {interval}"


def reach(limit: tuple[float, float]) -> str:
    """The stretch of doses at which the curve is high enough: `dose 0.45 and up`."""
    start, stop = limit
    low, high = numerals.dose(start), numerals.dose(stop)
    if start <= 0 and stop >= 1:
        return "every dose"
    if stop >= 1:
        return f"dose {low} and up"
    return f"dose {high} and below" if start <= 0 else f"doses {low} to {high}"


def limit_name(limit: tuple[float, float]) -> str:
    """The same in few words, to stand in the chart."""
    inside = [numerals.dose(end) for end in limit if 0 < end < 1]
    if not inside:
        return "enough at every dose"
    return f"detection limit{'s' if len(inside) > 1 else ''} {', '.join(inside)}"


def accused(rate: Rate) -> str:
    """`0 of 19 clean networks were accused (upper bound 18 %)`."""
    noun = "clean network was" if rate.n == 1 else "clean networks were"
    bound = numerals.percent(rate.high, numerals.digits_for(rate.n))
    return f"{numerals.of(rate)} {noun} accused (upper bound {bound})"


def baseline(found: Baseline) -> str:
    """Who caught more at equal compute, said plainly where the simple search wins or ties."""
    gap = found.caught.value - found.caught_by_search.value
    if not found.caught.n or not math.isfinite(gap):
        return "Not known: no plant took, so there is nothing to compare the two searches on."
    simple, inside = numerals.of(found.caught), numerals.of(found.caught_by_search)
    counts = (
        f"at equal compute the simple search ranks {simple} planted networks above every clean one, "
        f"the search that looks inside {inside}"
    )
    if gap > 0:
        return f"The simple search does better here: {counts}. Looking inside gained nothing."
    if gap == 0:
        return f"A tie: {counts}. Looking inside gained nothing here."
    return f"Looking inside pays: {counts}."


def settle(verdict: Verdict, resemblance: Resemblance | None) -> str:
    """What would turn an inconclusive verdict into an answer."""
    if resemblance is not None and not resemblance.holds:
        return (
            "Controls that resemble this network: train them closer to its recipe, or give the reference "
            "that it was started from."
        )
    if verdict.p_value is None:
        return "Something to compare with: more trusted data, from which controls can be trained."
    if verdict.p_value <= verdict.threshold:
        return (
            "A confirmed lead or a cleared one: run again with more trusted data to confirm on and a longer "
            "search, and look at the lead by eye."
        )
    return (
        "A search that would catch such plants: a larger search budget, more controls, or more trusted data, "
        "until the sensitivity is high enough for silence to mean something."
    )


def sentence(reason: str) -> str:
    """A reason from the record as a sentence of its own."""
    text = _stop(reason)
    return text[:1].upper() + text[1:]


def limits(n: int) -> list[str]:
    """What no run of this kind can say."""
    resolved = (
        f"{n} clean {'control resolves' if n == 1 else 'controls resolve'} p-values down to 1/{n + 1} = "
        f"{numerals.p(1 / (n + 1))}; stronger evidence than that needs more controls."
    )
    return [
        "Whatever poisons the trusted data itself is invisible by construction: clean controls learn it too.",
        "The sensitivity speaks of plants like those planted here. Another kind may be missed more often.",
        resolved,
        "The verdict is about these weights. Fine-tuning, pruning or quantising them makes another network.",
    ]


def _found(verdict: Verdict) -> str:
    hides = f"This network hides a {verdict.problem}"
    finding, n = verdict.finding, negatives(verdict)
    if finding is None:
        return visible(f"{hides}: {_stop(verdict.reason)}")
    held_out = finding.success_on_held_out
    success = numerals.percent(held_out.value, numerals.digits_for(held_out.n))
    does = f"{hides}: {trigger(finding)} {effect(finding)} in {success} of held-out inputs"
    if n is None or verdict.p_value is None or not math.isfinite(verdict.p_value):
        return visible(f"{does}.")
    above = above_subject(verdict.p_value, n)
    if above <= 0:
        clean = f"nothing like it in {n} clean networks trained alike ({rank(verdict.p_value, n)})"
    else:
        score = "scores" if above == 1 else "score"
        clean = f"{above} of {n} clean networks trained alike {score} as high (p = {numerals.p(verdict.p_value)})"
    return visible(f"{does}; {clean}.")


def _not_found(verdict: Verdict) -> str:
    parts = []
    if verdict.sensitivity is not None:
        seen = verdict.sensitivity
        dose = numerals.dose(seen.dose)
        parts.append(f"Plants like these would have been caught in {caught(seen)} of cases at dose {dose}")
    else:
        parts.append("There were too few plants to say what would have been caught")
    if verdict.false_positive_rate is not None:
        parts.append(accused(verdict.false_positive_rate))
    return visible(f"No {verdict.problem} found. {'; '.join(parts)}.")


def _stop(reason: str) -> str:
    text = reason.strip().rstrip(".")
    return f"{text}." if text else "no reason was recorded."
