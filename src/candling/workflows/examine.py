"""One problem class, examined: the subject through its controls' steps, the verdict, and where it sits if found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn.utils.rnn import pad_sequence

from candling.evidence.control import NetworkRow
from candling.evidence.judge import Standing, decide, rate, resemblance, sensitivity
from candling.evidence.measurement import Cost
from candling.evidence.verdict import Baseline, Gate, Resemblance, Verdict
from candling.problems import Bench, Confirmation, Detection, Network, Problem
from candling.runs.record import Arrays
from candling.runs.seeds import derive
from candling.workflows.bank import Bank, choose_leads, confirm_leads, cost_of, detect_in, place, row_of
from candling.workflows.claims import state_claims


@dataclass(frozen=True)
class Bar:
    """What `not found` takes: this estimated sensitivity at this dose."""

    sensitivity: float = 0.8
    dose: float = 0.5


@dataclass(frozen=True)
class Examination:
    verdict: Verdict
    rows: list[NetworkRow]
    arrays: Arrays
    cost: Cost
    outcome: Confirmation | None = None
    """Of the subject's lead."""


@dataclass(frozen=True)
class Look:
    """The subject through detector and gate 2 of one class."""

    detection: Detection
    search: Standing
    outcome: Confirmation
    row: NetworkRow
    """With the p-value of this class alone."""
    clean_excess: float


def examine(
    problem: Problem, bench: Bench, subject: Network, bank: Bank, alike: Resemblance, bar: Bar
) -> Examination:
    """The subject through the same steps, and the verdict."""
    return conclude(problem, bench, subject, bank, look(problem, bench, subject, bank), alike, bar)


def look(problem: Problem, bench: Bench, subject: Network, bank: Bank) -> Look:
    """The subject through the controls' steps."""
    (detection,) = detect_in(problem, bench, [subject], bank.parts, "searching the subject")
    search, baseline = place(bank, detection, None)
    (search,) = choose_leads(problem, bench, bank, [(subject, detection)], [search])
    (outcome,) = confirm_leads(problem, bench, bank, [(subject, detection)], [search], "confirming the subject")
    clean = bank.rows[: bank.n]
    clean_excess = max(r.success - r.success_in_controls for r in clean)
    confirmed = problem.passes(outcome, clean_excess)
    row = row_of(problem, subject, search, baseline, outcome, confirmed, [r.confirmed for r in clean])
    return Look(detection, search, outcome, row, clean_excess)


def conclude(
    problem: Problem, bench: Bench, subject: Network, bank: Bank, seen: Look, alike: Resemblance, bar: Bar
) -> Examination:
    """What may be said of the subject; where it sits, if something was found."""
    detection, search, outcome, row = seen.detection, seen.search, seen.outcome, seen.row
    clean, planted = bank.rows[: bank.n], bank.rows[bank.n :]
    strength = sensitivity(
        [r.plant for r in planted if r.plant],
        [r.found for r in planted],
        at=bar.dose,
        enough=bar.sensitivity,
    )
    answer, reason = decide(
        row.p_value,
        confirmed=row.confirmed,
        likeness=alike,
        strength=strength,
        enough=bar.sensitivity,
        threshold=1 / (1 + bank.n),
    )
    located = None
    if answer == "found":
        bench.progress("locating", 0, 1)
        located = problem.locate(subject.candidate, bench.thirds, outcome, derive(bench.seed, "locate"))
        bench.progress("locating", 1, 1)
    finding = None
    if answer == "found":
        sizes = [rival.size for rival in bank.rivals(search.lead)]
        finding = problem.describe(bench, subject.candidate, outcome, sizes, located)
        names = getattr(bench.thirds.search, "names", None)
        finding = finding.model_copy(update={"excess_in_controls": seen.clean_excess, "names": names})
        if problem.calibrate is not None:
            candidates = [network.candidate for network in bank.networks[bank.n :]]
            finding = problem.calibrate(bench, finding, list(zip(candidates, planted, strict=True)), row.statistic)
    verdict = Verdict(
        problem=problem.name,
        verdict=answer,
        reason=reason,
        p_value=row.p_value,
        threshold=1 / (1 + bank.n),
        sensitivity=strength,
        false_positive_rate=rate(sum(r.found for r in clean), bank.n),
        negatives_confirmed=Gate(passed=sum(r.confirmed for r in clean), n=bank.n),
        baseline=_baseline(problem.baseline, row, planted, detection, 1 / (1 + bank.n)),
        finding=finding,
        not_tested=problem.not_tested(bench.thirds.search),
        claims=[],
    )
    claims = state_claims(verdict, row, float(detection.found.score[search.lead]))
    return Examination(
        verdict.model_copy(update={"claims": claims}),
        [row, *bank.rows],
        _arrays(problem, bench, subject, detection, bank, search.lead, outcome),
        bank.cost + cost_of([subject], [detection], [outcome]),
        outcome,
    )


def likeness(bench: Bench, subject: Network, negatives: Sequence[Network]) -> Resemblance:
    """Could the subject be one of the clean controls?"""
    everyone = [subject, *negatives]
    return resemblance([m.loss for m in everyone], [m.accuracy for m in everyone], bench.kind.slack)


def _baseline(
    name: str, row: NetworkRow, planted: Sequence[NetworkRow], detection: Detection, threshold: float
) -> Baseline:
    took = [r for r in planted if r.plant and r.plant.took]
    return Baseline(
        name=name,
        p_value=row.baseline_p_value,
        caught=rate(sum(r.baseline_p_value <= threshold for r in took), len(took)),
        caught_by_search=rate(sum(r.search_p_value <= threshold for r in took), len(took)),
        cost=detection.baseline.cost,
    )


def _arrays(
    problem: Problem,
    bench: Bench,
    subject: Network,
    detection: Detection,
    bank: Bank,
    lead: int,
    outcome: Confirmation,
) -> Arrays:
    """Scores of every network, the controls' own triggers for the lead's part, and what the report shows."""
    rivals, detections = bank.rivals(lead), [detection, *bank.detections]
    theirs = [rival.trigger.arrays() for rival in rivals]
    arrays = {
        "lead": torch.tensor([lead]),
        **{f"rivals.{name}": _stacked([each[name] for each in theirs]) for name in theirs[0]},
        "rivals.size": torch.tensor([r.size for r in rivals]),
        "scores.search": torch.stack([d.found.score for d in detections]),
        "scores.baseline": torch.stack([d.baseline.score for d in detections]),
        **problem.picture(bench, subject.candidate, outcome),
    }
    return {name: array.float().numpy() for name, array in arrays.items()}


def _stacked(tensors: list[torch.Tensor]) -> torch.Tensor:
    """One row each; sequences of unlike lengths are padded on the right with -1."""
    if len({tensor.shape for tensor in tensors}) == 1:
        return torch.stack(tensors)
    return pad_sequence(tensors, batch_first=True, padding_value=-1)
