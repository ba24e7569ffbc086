"""Controls of one problem class through detector and gates, each judged as if it were the subject."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from candling.evidence.control import NetworkRow
from candling.evidence.judge import Standing, standing
from candling.evidence.measurement import Cost
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
from candling.runs.seeds import derive

Array = NDArray[np.float64]
T = TypeVar("T")

_LEADS = 3
"""Foremost leads that gate 2's one is chosen from."""


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
    detections = detect_in(problem, bench, networks, parts, "searching the controls")
    bank = Bank(parts, networks, detections, [], [], Cost(forward=0, backward=0))
    pairs = list(zip(networks, detections, strict=True))
    places = [place(bank, d, i if i < bank.n else None) for i, (_, d) in enumerate(pairs)]
    searched = choose_leads(problem, bench, bank, pairs, [search for search, _ in places])
    places = [(search, baseline) for search, (_, baseline) in zip(searched, places, strict=True)]
    outcomes = confirm_leads(problem, bench, bank, pairs, searched, "confirming the controls")
    excess = [outcome.excess for outcome in outcomes[: bank.n]]
    passed = [problem.passes(outcome, max(without(excess, i))) for i, outcome in enumerate(outcomes)]
    rows = [
        row_of(problem, network, *where, outcome, passed[i], without(passed[: bank.n], i))
        for i, ((network, _), where, outcome) in enumerate(zip(pairs, places, outcomes, strict=True))
    ]
    cost = cost_of(networks[bank.n :], detections, outcomes)
    return replace(bank, outcomes=outcomes, rows=rows, cost=cost)


def detect_in(
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


def choose_leads(
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


def confirm_leads(
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


def row_of(
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


def cost_of(networks: Sequence[Network], detections: Sequence[Detection], outcomes: Sequence[Confirmation]) -> Cost:
    spent = [n.cost for n in networks] + [o.cost for o in outcomes]
    spent += [d.found.cost + d.baseline.cost for d in detections]
    return sum(spent, Cost(forward=0, backward=0))
