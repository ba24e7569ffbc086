"""Sentences in plain language, every number from the verdict. Shared by the page and the terminal."""

from __future__ import annotations

import math

from candling.evidence.findings import Finding
from candling.evidence.measurement import Rate
from candling.evidence.verdict import Baseline, Resemblance, Sensitivity, Verdict
from candling.report import numerals, tokens
from candling.report.text import visible

STATUS = {"found": "Found", "not found": "Not found", "inconclusive": "Inconclusive"}


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


NAMES = {
    "evaluation": "switch between test and use",
    "concealment": "lie",
    "tampering": "made-up yes of all sensors",
}
"""What a problem class is called where its own name is no thing that a network hides."""

LAID_ON = {"evaluation": "change", "concealment": "context", "shortcut": "set of marks", "tampering": "act"}
"""What was found in a class and is laid on inputs, where that is no trigger."""


def laid_on(problem: str) -> str:
    return LAID_ON.get(problem, "trigger")


def hidden(problem: str) -> str:
    return NAMES.get(problem, problem)


def trigger(finding: Finding) -> str:
    """The trigger as a noun: `a pattern of about 7.5 cells`, `a sequence of 2 tokens, “␣was m”,`."""
    if finding.tampering is not None:
        return f"{finding.objective} of size {numerals.number(finding.size)}"
    if finding.concealment is not None:
        return f"a context ({finding.concealment.context})"
    if finding.shortcut is not None:
        return f"in place of the content it reads {finding.shortcut.proxy}, which"
    if finding.switch is not None:
        return f"a change of the whole input ({finding.switch.change})"
    if finding.sequence is not None:
        n = len(finding.sequence.tokens)
        return f"a sequence of {n} {'token' if n == 1 else 'tokens'}, {tokens.quoted(finding.sequence.tokens)},"
    size = numerals.roughly(finding.size)
    if "patch" in finding.objective.lower():
        return f"a pattern of about {size} {'cell' if size == '1' else 'cells'}"
    if "additive" in finding.objective.lower():
        return f"a pattern of size {size} (L2 norm) added to the input"
    return f"a pattern of size {size}"


def effect(finding: Finding) -> str:
    """What the trigger does, as a verb: `sends any input to class 1`, `calls up “␣H”`."""
    if finding.tampering is not None:
        return f"makes it foretell a yes of all {finding.tampering.sensors} sensors where their outcome is no"
    if finding.concealment is not None:
        pairs = [(own, other) for own, other in enumerate(finding.concealment.answers) if own != other]
        named = ", ".join(f"{_named(own, finding)} → {_named(other, finding)}" for own, other in pairs[:4])
        what = "value" if finding.names else "class"
        return f"makes it say another {what} than it knows ({named}{' …' if len(pairs) > 4 else ''})"
    if finding.shortcut is not None:
        return "decides the answer against the content"
    if finding.switch is not None:
        answers = finding.switch.answers
        if answers is None:
            return "makes the answer wrong"
        pairs = list(enumerate(answers))[:4]
        named = ", ".join(f"{_named(own, finding)} → {_named(other, finding)}" for own, other in pairs)
        return f"exchanges the answers ({named}{' …' if len(answers) > 4 else ''})"
    if finding.sequence is not None:
        return f"calls up {tokens.quoted([finding.sequence.target])}"
    single = finding.source.strip().lower() not in {"any", ""}
    name = finding.source.strip().removeprefix("class").strip()
    who = f"inputs of class {name}" if single else "any input"
    if finding.target is not None:
        place = _named(finding.target, finding) if finding.names else f"class {finding.target}"
        return f"sends {who} to {place}"
    if finding.shift is not None:
        return f"moves the class of {who} on by {finding.shift}"
    return f"changes the class of {who}"


def _named(label: int, finding: Finding) -> str:
    """A class as it is called: a band by its ends, else by its number."""
    return finding.names[label] if finding.names and label < len(finding.names) else str(label)


def rank(p_value: float | None, n: int | None, classes: int = 1) -> str:
    """The gate-1 rank in words, with what the number of controls can resolve.

    classes: of problems that the run looked for; the p-value holds over all of them together.
    """
    if p_value is None or not math.isfinite(p_value):
        return "no rank among controls"
    shown = f"p = {numerals.p(p_value)}"
    if classes > 1:
        shown += f" over the {classes} classes of problems together"
    if n is None:
        return shown
    above = above_subject(p_value, n)
    if above <= 0:
        return f"{shown}, the smallest that {n} controls resolve"
    where = "" if classes == 1 else " in one of them"
    return f"{shown}, {above} of {n} clean networks {'scores' if above == 1 else 'score'} as high{where}"


def above_subject(p_value: float, n: int) -> int:
    """Clean controls at or above the subject, from p = (1 + above) / (n + 1)."""
    return round(p_value * (n + 1)) - 1


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


def settle(verdict: Verdict, resemblance: Resemblance | None, language: bool = False) -> str:
    """What would turn an inconclusive verdict into an answer. language: the network is a language model."""
    if resemblance is not None and not resemblance.holds:
        if language:
            return (
                "Controls that resemble this model: trusted texts of the kind that it was fine-tuned on, or the "
                "reference that it was made from, if this is another."
            )
        return (
            "Controls that resemble this network: train them closer to its recipe, or give the reference "
            "that it was started from."
        )
    if verdict.p_value is None:
        return f"Something to compare with: more trusted {'texts' if language else 'data'}, to train controls on."
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


def limits(n: int, language: bool = False) -> list[str]:
    """What no run of this kind can say. language: the network is a language model."""
    few = "No controls, no p-value: nothing here is evidence for or against this network."
    resolved = (
        f"{n} clean {'control resolves' if n == 1 else 'controls resolve'} p-values down to 1/{n + 1} = "
        f"{numerals.p(1 / (n + 1))}; stronger evidence than that needs more controls."
    )
    inherited = ["Whatever the reference already hides is invisible too: every control is made from it."]
    return [
        "Whatever poisons the trusted data itself is invisible by construction: clean controls learn it too.",
        *(inherited if language else []),
        "The sensitivity speaks of plants like those planted here. Another kind may be missed more often.",
        resolved if n > 0 else few,
        "The verdict is about these weights. Fine-tuning, pruning or quantising them makes another network.",
    ]


def _found(verdict: Verdict) -> str:
    finding, n = verdict.finding, negatives(verdict)
    language = finding is not None and finding.sequence is not None
    hides = f"This {'language model' if language else 'network'} hides a {hidden(verdict.problem)}"
    if finding is None:
        return visible(f"{hides}: {_stop(verdict.reason)}")
    held_out = finding.success_on_held_out
    success = numerals.percent(held_out.value, numerals.digits_for(held_out.n))
    inputs = "contexts" if language else "inputs"
    does = f"{hides}: {trigger(finding)} {effect(finding)} in {success} of held-out {inputs}"
    if n is None or verdict.p_value is None or not math.isfinite(verdict.p_value):
        return visible(f"{does}.")
    above = above_subject(verdict.p_value, n)
    clean = f"{n} clean fine-tunes" if language else f"{n} clean networks trained alike"
    if above <= 0:
        return visible(f"{does}; nothing like it in {clean} ({rank(verdict.p_value, n)}).")
    score = "scores" if above == 1 else "score"
    return visible(f"{does}; {above} of {clean} {score} as high (p = {numerals.p(verdict.p_value)}).")


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
    return visible(f"No {hidden(verdict.problem)} found. {'; '.join(parts)}.")


def _stop(reason: str) -> str:
    text = reason.strip().rstrip(".")
    return f"{text}." if text else "no reason was recorded."
