"""One problem class, examined: detect in every network, judge, confirm every lead, locate what was found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from candling.access import Dataset, forward
from candling.evidence.control import NetworkRow
from candling.evidence.judge import Standing, decide, rate, sensitivity, standing
from candling.evidence.measurement import Cost
from candling.evidence.verdict import Baseline, Finding, Gate, Located, Resemblance, Verdict
from candling.problems import (
    Bench,
    Confirmation,
    Detection,
    Network,
    Problem,
    Rival,
    make_positives,
)
from candling.runs.jobs import run_jobs
from candling.runs.record import Arrays
from candling.runs.seeds import derive
from candling.techniques.search import Part
from candling.workflows.claims import state_claims

_EXAMPLES = 6


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


def examine(
    problem: Problem,
    bench: Bench,
    subject: Network,
    negatives: Sequence[Network],
    likeness: Resemblance,
    bar: Bar,
) -> Examination:
    """Every detector and gate runs blind on the subject and on every control alike."""
    positives = make_positives(bench, len(negatives), reach=subject.loss, problem=problem)
    networks = [subject, *negatives, *positives]
    parts = problem.parts(bench.thirds.search)
    seed = derive(bench.seed, problem.name, "search")
    detections = run_jobs(
        problem.detect,
        [(network.candidate, bench.thirds.search, parts, seed) for network in networks],
        stage="searching",
        workers=bench.workers,
        progress=bench.progress,
    )
    search = _standings([d.found.score for d in detections], len(negatives), parts)
    baseline = _standings([d.baseline.score for d in detections], len(negatives), parts)
    outcomes = _confirm(problem, bench, networks, detections, search, parts)
    rows = [
        _row(problem, *each)
        for each in zip(networks, search, baseline, outcomes, _least(len(negatives), networks), strict=True)
    ]
    clean, planted = rows[1 : 1 + len(negatives)], rows[1 + len(negatives) :]
    threshold = 1 / (1 + len(negatives))
    strength = sensitivity(
        [row.plant for row in planted if row.plant],
        [row.found for row in planted],
        at=bar.dose,
        enough=bar.sensitivity,
    )
    answer, reason = decide(
        search[0],
        confirmed=rows[0].confirmed,
        likeness=likeness,
        strength=strength,
        enough=bar.sensitivity,
        threshold=threshold,
    )
    located = None
    if answer == "found":
        bench.progress("locating", 0, 1)
        located = problem.locate(subject.candidate, bench.thirds, outcomes[0], derive(bench.seed, "locate"))
        bench.progress("locating", 1, 1)
    sizes = [float(d.found.size[search[0].lead]) for d in detections[1 : 1 + len(negatives)]]
    verdict = Verdict(
        problem=problem.name,
        verdict=answer,
        reason=reason,
        p_value=search[0].p_value,
        threshold=threshold,
        sensitivity=strength,
        false_positive_rate=rate(sum(row.found for row in clean), len(clean)),
        negatives_confirmed=Gate(passed=sum(row.confirmed for row in clean), n=len(clean)),
        baseline=_baseline(detections, search, baseline, rows, threshold),
        finding=_finding(outcomes[0], sizes, located) if answer == "found" else None,
        not_tested=problem.untested(bench.thirds.search),
        claims=[],
    )
    score = float(detections[0].found.score[search[0].lead])
    verdict = verdict.model_copy(update={"claims": state_claims(verdict, rows[0], score)})
    cost = sum(
        (d.found.cost + d.baseline.cost for d in detections),
        sum((o.cost for o in outcomes), sum((p.cost for p in positives), Cost(forward=0, backward=0))),
    )
    return Examination(verdict, rows, _arrays(bench, networks, detections, search[0].lead, outcomes[0]), cost)


def _standings(
    scores: Sequence[torch.Tensor], n: int, parts: Sequence[Part]
) -> list[Standing]:
    """Gate 1 for every network: the subject and the positives among all negatives, a negative among the rest."""
    matrix: NDArray[np.float64] = torch.stack(list(scores)).double().numpy()
    groups, negatives = [part.group for part in parts], matrix[1 : 1 + n]
    return [
        standing(row, np.delete(negatives, i - 1, axis=0) if 1 <= i <= n else negatives, groups)
        for i, row in enumerate(matrix)
    ]


def _least(n: int, networks: Sequence[Network]) -> list[float]:
    """The smallest p-value that each network could get; a negative has one rival less."""
    return [1 / n if network.role == "negative" else 1 / (n + 1) for network in networks]


def _confirm(
    problem: Problem,
    bench: Bench,
    networks: Sequence[Network],
    detections: Sequence[Detection],
    search: Sequence[Standing],
    parts: Sequence[Part],
) -> list[Confirmation]:
    """Gate 2 for every network's best lead, whatever its rank: clean networks face it too."""
    jobs = []
    for network, detection, stand in zip(networks, detections, search, strict=True):
        rivals = [
            Rival(other.candidate, theirs.found.trigger(stand.lead), float(theirs.found.size[stand.lead]))
            for other, theirs in zip(networks, detections, strict=True)
            if other.role == "negative" and other is not network
        ]
        start = detection.found.trigger(stand.lead)
        seed = derive(bench.seed, problem.name, "confirm", network.name)
        jobs.append((network.candidate, bench.thirds, parts[stand.lead], start, rivals, seed))
    return run_jobs(
        problem.confirm, jobs, stage="confirming", workers=bench.workers, progress=bench.progress
    )


def _row(
    problem: Problem,
    network: Network,
    search: Standing,
    baseline: Standing,
    outcome: Confirmation,
    least: float,
) -> NetworkRow:
    confirmed = problem.passes(outcome)
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
        p_value=search.p_value,
        lead=str(outcome.part),
        lead_size=outcome.size,
        baseline_statistic=baseline.statistic,
        baseline_p_value=baseline.p_value,
        success=outcome.success,
        success_of_random_trigger=outcome.random,
        success_in_controls=outcome.transfer,
        best_in_controls=outcome.best_in_controls,
        confirmed=confirmed,
        found=confirmed and search.p_value <= least,
    )


def _baseline(
    detections: Sequence[Detection],
    search: Sequence[Standing],
    baseline: Sequence[Standing],
    rows: Sequence[NetworkRow],
    threshold: float,
) -> Baseline:
    took = [i for i, row in enumerate(rows) if row.plant and row.plant.took]
    return Baseline(
        name="random triggers",
        p_value=baseline[0].p_value,
        caught=rate(sum(baseline[i].p_value <= threshold for i in took), len(took)),
        caught_by_search=rate(sum(search[i].p_value <= threshold for i in took), len(took)),
        cost=detections[0].baseline.cost,
    )


def _finding(outcome: Confirmation, sizes: list[float], located: Located | None) -> Finding:
    mapping = outcome.part.mapping
    return Finding(
        objective=f"{mapping.kind}, {outcome.part.form}",
        source="any" if mapping.source is None else str(mapping.source),
        target=mapping.target,
        shift=mapping.shift,
        size=outcome.size,
        size_in_controls=sizes,
        success_on_held_out=rate(outcome.hits, outcome.n),
        success_of_random_trigger=outcome.random,
        random_triggers=outcome.random_triggers,
        success_in_controls=outcome.transfer,
        best_in_controls=outcome.best_in_controls,
        located=located,
    )


def _arrays(
    bench: Bench,
    networks: Sequence[Network],
    detections: Sequence[Detection],
    lead: int,
    outcome: Confirmation,
) -> dict[str, NDArray[np.float32]]:
    """Scores of every network, the subject's best trigger, and what it does to a few held-out inputs."""
    data, trigger = bench.thirds.confirm, outcome.trigger
    examples = _examples(data, outcome)
    changed = trigger.apply(data, examples)
    network = networks[0].candidate.load().cpu()
    clean = [d for n, d in zip(networks, detections, strict=True) if n.role == "negative"]
    arrays = {
        "lead": torch.tensor([lead]),
        "rivals.mask": torch.stack([d.found.mask[lead] for d in clean]),
        "rivals.shift": torch.stack([d.found.shift[lead] for d in clean]),
        "rivals.size": torch.stack([d.found.size[lead] for d in clean]),
        "scores.search": torch.stack([d.found.score for d in detections]),
        "scores.baseline": torch.stack([d.baseline.score for d in detections]),
        "trigger.mask": trigger.mask,
        "trigger.shift": trigger.shift,
        "examples.clean": examples,
        "examples.triggered": changed,
        "examples.predicted_clean": forward(network, examples).argmax(-1),
        "examples.predicted_triggered": forward(network, changed).argmax(-1),
        "range.low": data.low,
        "range.high": data.high,
    }
    return {name: array.float().numpy() for name, array in arrays.items()}


def _examples(data: Dataset, outcome: Confirmation) -> torch.Tensor:
    """The first held-out row of each class that the trigger is meant for, six at most."""
    rows = torch.nonzero(outcome.part.mapping.applies(data.y)).flatten()
    firsts = {int(data.y[row]): int(row) for row in reversed(rows.tolist())}
    chosen = [firsts[label] for label in sorted(firsts)]
    if len(chosen) < _EXAMPLES:
        chosen += [row for row in rows.tolist() if row not in chosen][: _EXAMPLES - len(chosen)]
    return data.x[torch.tensor(chosen[:_EXAMPLES])]
