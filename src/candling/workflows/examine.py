"""One problem class, examined: detect in every network, judge, confirm every lead, locate what was found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.utils.rnn import pad_sequence

from candling.evidence.control import NetworkRow
from candling.evidence.judge import Standing, decide, rate, resemblance, sensitivity, standing
from candling.evidence.measurement import Cost
from candling.evidence.verdict import Baseline, Gate, Resemblance, Verdict
from candling.problems import (
    Bench,
    Confirmation,
    Detection,
    Lead,
    Network,
    Problem,
    Rival,
    Searched,
    Sought,
    make_positives,
)
from candling.runs.record import Arrays
from candling.runs.seeds import derive
from candling.workflows.claims import state_claims

Array = NDArray[np.float64]
T = TypeVar("T")

_LEADS = 3
"""Foremost leads that gate 2's one is chosen from."""


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
class Bank:
    """Controls that have been through detector and gates. Nothing in it depends on the subject."""

    parts: list[Sought]
    networks: list[Network]
    """Negatives, then positives."""
    detections: list[Detection]
    outcomes: list[Confirmation]
    rows: list[NetworkRow]
    cost: Cost
    """Without the training of the negatives, which the classes share."""

    @property
    def n(self) -> int:
        """Negatives."""
        return sum(network.role == "negative" for network in self.networks)

    def rivals(self, lead: int, leaving_out: Network | None = None) -> list[Rival]:
        """What the same search found in the negatives for one part."""
        return [
            Rival(other.candidate, theirs.found.trigger(lead), float(theirs.found.size[lead]))
            for other, theirs in zip(self.networks[: self.n], self.detections, strict=False)
            if other is not leaving_out
        ]


def make_bank(problem: Problem, bench: Bench, negatives: Sequence[Network], *, reach: float) -> Bank:
    """Plant, search and confirm in all controls, each judged as if it were the subject.

    A positive stands among all negatives, a negative among the others.
    """
    networks = [*negatives, *make_positives(bench, len(negatives), reach=reach, problem=problem)]
    parts = problem.parts(bench.thirds.search)
    detections = _detect(problem, bench, networks, parts, "searching the controls")
    bank = Bank(parts, networks, detections, [], [], Cost(forward=0, backward=0))
    pairs = list(zip(networks, detections, strict=True))
    places = [place(bank, d, i if i < bank.n else None) for i, (_, d) in enumerate(pairs)]
    searched = _choose(problem, bench, bank, pairs, [search for search, _ in places])
    places = [(search, baseline) for search, (_, baseline) in zip(searched, places, strict=True)]
    outcomes = _confirm(problem, bench, bank, pairs, searched, "confirming the controls")
    excess = [outcome.excess for outcome in outcomes[: bank.n]]
    passed = [problem.passes(outcome, max(without(excess, i))) for i, outcome in enumerate(outcomes)]
    rows = [
        _row(problem, network, *where, outcome, passed[i], without(passed[: bank.n], i))
        for i, ((network, _), where, outcome) in enumerate(zip(pairs, places, outcomes, strict=True))
    ]
    cost = _cost(networks[bank.n :], detections, outcomes)
    return replace(bank, outcomes=outcomes, rows=rows, cost=cost)


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
    (detection,) = _detect(problem, bench, [subject], bank.parts, "searching the subject")
    search, baseline = place(bank, detection, None)
    (search,) = _choose(problem, bench, bank, [(subject, detection)], [search])
    (outcome,) = _confirm(problem, bench, bank, [(subject, detection)], [search], "confirming the subject")
    clean = bank.rows[: bank.n]
    clean_excess = max(r.success - r.success_in_controls for r in clean)
    confirmed = problem.passes(outcome, clean_excess)
    row = _row(problem, subject, search, baseline, outcome, confirmed, [r.confirmed for r in clean])
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
            finding = problem.calibrate(bench, finding, list(zip(candidates, planted, strict=True)))
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
        not_tested=problem.untested(bench.thirds.search),
        claims=[],
    )
    claims = state_claims(verdict, row, float(detection.found.score[search.lead]))
    return Examination(
        verdict.model_copy(update={"claims": claims}),
        [row, *bank.rows],
        _arrays(problem, bench, subject, detection, bank, search.lead, outcome),
        bank.cost + _cost([subject], [detection], [outcome]),
        outcome,
    )


def likeness(bench: Bench, subject: Network, negatives: Sequence[Network]) -> Resemblance:
    """Could the subject be one of the clean controls?"""
    everyone = [subject, *negatives]
    return resemblance([m.loss for m in everyone], [m.accuracy for m in everyone], bench.kind.slack)


def _detect(
    problem: Problem, bench: Bench, networks: Sequence[Network], parts: Sequence[Sought], stage: str
) -> list[Detection]:
    seed = derive(bench.seed, problem.name, "search")
    jobs = [(network.candidate, bench.thirds.search, parts, seed) for network in networks]
    return bench.run(problem.detect, jobs, stage=stage)


def place(bank: Bank, detection: Detection, index: int | None) -> tuple[Standing, Standing]:
    """By the search and by the baseline, among the negatives but the one at `index`."""
    groups = [part.group for part in bank.parts]

    def among(found: Searched, clean: Sequence[Searched]) -> Standing:
        return standing(_matrix([found])[0], _matrix(clean), groups)

    clean = [d for i, d in enumerate(bank.detections[: bank.n]) if i != index]
    return (
        among(detection.found, [d.found for d in clean]),
        among(detection.baseline, [d.baseline for d in clean]),
    )


def _matrix(found: Sequence[Searched]) -> Array:
    return torch.stack([f.score for f in found]).double().numpy()


def _choose(
    problem: Problem,
    bench: Bench,
    bank: Bank,
    pairs: Sequence[tuple[Network, Detection]],
    places: Sequence[Standing],
) -> list[Standing]:
    """Which lead of each network gate 2 tests, by the search third alone; of clean and planted networks alike."""
    if problem.choose is None:
        return list(places)
    jobs = []
    for (network, detection), where in zip(pairs, places, strict=True):
        leads = [
            Lead(bank.parts[i], detection.found.trigger(i), bank.rivals(i, network)) for i in where.leads[:_LEADS]
        ]
        jobs.append((network.candidate, bench.thirds.search, leads))
    chosen = bench.run(problem.choose, jobs, stage="choosing leads")
    return [replace(where, leads=(where.leads[i],)) for where, i in zip(places, chosen, strict=True)]


def _confirm(
    problem: Problem,
    bench: Bench,
    bank: Bank,
    pairs: Sequence[tuple[Network, Detection]],
    places: Sequence[Standing],
    stage: str,
) -> list[Confirmation]:
    """Gate 2 for every network's lead, whatever its rank: clean networks face it too."""
    jobs = []
    for (network, detection), where in zip(pairs, places, strict=True):
        start = detection.found.trigger(where.lead)
        seed = derive(bench.seed, problem.name, "confirm", network.name)
        rivals = bank.rivals(where.lead, network)
        jobs.append((network.candidate, bench.thirds, bank.parts[where.lead], start, rivals, seed))
    return bench.run(problem.confirm, jobs, stage=stage)


def without(values: list[T], index: int) -> list[T]:
    """All but the one at `index`, if there is one."""
    return [value for i, value in enumerate(values) if i != index]


def _cost(networks: Sequence[Network], detections: Sequence[Detection], outcomes: Sequence[Confirmation]) -> Cost:
    spent = [n.cost for n in networks] + [o.cost for o in outcomes]
    spent += [d.found.cost + d.baseline.cost for d in detections]
    return sum(spent, Cost(forward=0, backward=0))


def _row(
    problem: Problem,
    network: Network,
    search: Standing,
    baseline: Standing,
    outcome: Confirmation,
    confirmed: bool,
    negatives_confirmed: Sequence[bool],
) -> NetworkRow:
    p_value = search.p_value_after(confirmed, negatives_confirmed) if problem.refuted_last else search.p_value
    return NetworkRow(
        problem=problem.name,
        name=network.name,
        role=network.role,
        recipe=network.recipe,
        weights=network.sha256,
        loss=network.loss,
        accuracy=network.accuracy,
        plant=network.plant,
        statistic=search.statistic,
        search_p_value=search.p_value,
        p_value=p_value,
        lead=str(outcome.part),
        lead_size=outcome.size,
        baseline_statistic=baseline.statistic,
        baseline_p_value=baseline.p_value,
        success=outcome.success,
        success_of_random_trigger=outcome.random,
        success_in_controls=outcome.transfer,
        best_in_controls=outcome.best_in_controls,
        confirmed=confirmed,
        found=confirmed and p_value <= 1 / (1 + len(negatives_confirmed)),
    )


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
