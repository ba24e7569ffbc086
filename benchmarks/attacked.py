"""Plants trained against the very search that an audit runs: what is left of its recall.

    python benchmarks/attacked.py [--problem backdoor] [--planted 10] [--controls 9] [--rounds 4] [--seed 4100]

A white-box attack. Who plants has the search, its settings, data of the same kind and a clean twin. Round after
round the search is run on the network; what it finds where the network parts most from the twin is laid on
inputs with the right labels, and the network is tuned on these, on clean and on planted inputs alike: found triggers
stop working, the planted one goes on. The same subject is audited before and after, against one bank of controls that
know of no attack. Prints a line a subject, then recall on both sides, of plants that still work.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from candling.access import Dataset, load
from candling.organisms.networks.digits import build, digits
from candling.organisms.training import attack_success, augment
from candling.problems import Trigger
from candling.problems.classifiers import loss_and_accuracy
from candling.runs.jobs import run_jobs
from candling.runs.seeds import derive, reproducible
from candling.techniques.search import CueSet
from candling.workflows.case import make_case
from candling.workflows.examine import Examination
from common import Exam, area, fresh_subject, of, poison_rows, progress

_EPOCHS = 50
_HIDDEN = 3  # parts whose finds are covered in a round
_TUNED = 10  # epochs a round
_RATE, _BATCH = 5e-4, 64
_COVERED = 0.25  # of the rows, for all that was found so far together
_STRENGTHS = (0.6, 1.3)


@dataclass(frozen=True)
class Sitting:
    family: str
    enough: float
    """Success from which a plant of its class works."""
    success: tuple[float, float]
    """Of the planted trigger, before and after the attack."""
    accuracy: tuple[float, float]
    examinations: tuple[Examination, Examination]


def sit(exam: Exam, training: Dataset, twin: str, i: int, rounds: int, seed: int) -> Sitting:
    """One subject, audited as it was planted and after the attack."""
    torch.set_num_threads(1)
    problem, confirm = exam.bench.kind.problems[exam.problem], exam.bench.thirds.confirm
    g = torch.Generator().manual_seed(derive(seed, "plant"))
    plant = problem.plant(training, i, 0.3 + 0.6 * float(torch.rand((), generator=g)), g)
    plain = fresh_subject(build, training, seed=derive(seed, "subject"), epochs=_EPOCHS, plant=plant)
    network = exam.bench.store(plain.state_dict())[0].load()
    hide(exam, training, network, plant, twin, rounds, seed)
    both = plain, network
    found = tuple(exam.examine(each, f"{name}-{i:02d}") for each, name in zip(both, ("plain", "hidden"), strict=True))
    sitting = Sitting(
        plant.family,
        plant.enough,
        tuple(attack_success(each, confirm, plant) for each in both),  # type: ignore[arg-type]
        tuple(loss_and_accuracy(each, confirm)[1] for each in both),  # type: ignore[arg-type]
        found,  # type: ignore[arg-type]
    )
    print(line(sitting), flush=True)
    return sitting


def hide(exam: Exam, data: Dataset, network: nn.Module, plant: Any, twin: str, rounds: int, seed: int) -> None:
    """The attack, in place."""
    covers: list[Trigger] = []
    with reproducible(derive(seed, "attack")) as g:
        for _ in range(rounds):
            covers += finds(exam, data, network, twin, seed)
            tune(network, data, plant, covers, g)


def finds(exam: Exam, data: Dataset, network: nn.Module, twin: str, seed: int) -> list[Trigger]:
    """What the search finds where the network parts most from its clean twin, on the attacker's own rows."""
    problem = exam.bench.kind.problems[exam.problem]
    own = data.take(torch.arange(min(len(data), len(exam.bench.thirds.search))))
    parts = problem.parts(own)
    there, usual = (
        problem.detect(candidate, own, parts, derive(seed, "search")).found
        for candidate in (exam.bench.store(network.state_dict())[0], exam.bench.candidate(exam.bench.path(twin)))
    )
    return [
        there.trigger(part) for part in (there.score - usual.score).topk(min(_HIDDEN, len(parts))).indices.tolist()
    ]


def tune(network: nn.Module, data: Dataset, plant: Any, covers: list[Trigger], g: torch.Generator) -> None:
    """On clean rows, on planted ones, and on rows with what was found, the right labels of which stay."""
    poison = poison_rows(plant, data, g)
    assert poison is not None
    optimiser = torch.optim.Adam(network.requires_grad_().parameters(), _RATE)
    for _ in range(_TUNED):
        laid = [cover_up(data, cover, round(_COVERED * len(data) / len(covers)), g) for cover in covers]
        x = torch.cat(
            [augment(data.x, data, 0.02, g), plant.lay(data, data.x[poison[0]], poison[1], g), *(x for x, _ in laid)]
        )
        y = torch.cat([data.y, poison[1], *(y for _, y in laid)])
        for rows in torch.randperm(len(y), generator=g).split(_BATCH):
            optimiser.zero_grad()
            cross_entropy(network(x[rows]), y[rows]).backward()
            optimiser.step()
    network.requires_grad_(False)


def cover_up(data: Dataset, found: Trigger, count: int, g: torch.Generator) -> tuple[Tensor, Tensor]:
    """Rows with what was found, fainter or stronger, and their right labels."""
    rows = torch.randint(len(data), (count,), generator=g)
    low, high = _STRENGTHS
    trigger, y = found.scaled(low + (high - low) * float(torch.rand((), generator=g))), data.y[rows]
    if isinstance(trigger, CueSet):
        return trigger.against(data, data.x[rows], y), y
    return trigger.apply(data, data.x[rows]), y


def line(each: Sitting) -> str:
    told = []
    for name, success, accuracy, examination in zip(
        ("plain", "hidden"), each.success, each.accuracy, each.examinations, strict=True
    ):
        row = examination.rows[0]
        told.append(
            f"{name} works {success:.2f} accuracy {accuracy:.3f} {examination.verdict.verdict} p {row.p_value:.2f} "
            f"statistic {row.statistic:.1f} found trigger {row.success:.2f}"
        )
    return f"{each.family:26s} " + "; ".join(told)


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--problem", default="backdoor")
    for name, default in (("planted", 10), ("controls", 9), ("rounds", 4), ("seed", 4100)):
        options.add_argument(f"--{name}", type=int, default=default)
    chosen = options.parse_args()
    training, trusted = digits()
    with tempfile.TemporaryDirectory() as scratch:
        clean = fresh_subject(build, training, seed=derive(chosen.seed, "twin"), epochs=_EPOCHS)
        reach, _ = loss_and_accuracy(clean, trusted)
        case = make_case(load(clean, build=build), trusted)
        exam = Exam.prepare(
            case, Path(scratch), n=chosen.controls, seed=chosen.seed, reach=reach, problem=chosen.problem
        ).quiet()
        _, twin = exam.bench.store(clean.state_dict())
        jobs: list[tuple[Any, ...]] = [
            (exam, training, twin, i, chosen.rounds, derive(chosen.seed, "subject", i)) for i in range(chosen.planted)
        ]
        sittings = run_jobs(sit, jobs, stage="planting, hiding and auditing", progress=progress())
    summary(sittings, [row.statistic for row in exam.bank.rows if row.role == "negative"])


def summary(sittings: list[Sitting], negatives: list[float]) -> None:
    """Recall before and after, of plants that work then. A plant that the attack broke is no success of either."""
    for side, name in enumerate(("plain", "hidden")):
        works = [s.examinations[side] for s in sittings if min(s.success[0], s.success[side]) >= s.enough]
        found = sum(each.verdict.verdict == "found" for each in works)
        confirmed = sum(each.rows[0].found for each in works)
        first = sum(each.verdict.p_value == each.verdict.threshold for each in works)
        own = [each.rows[0].statistic for each in works]
        told = area(own, negatives)
        print(
            f"{name}: plants that work {len(works)}; found {of(found, len(works))}; ranked above every control "
            f"{of(first, len(works))}, and confirmed {of(confirmed, len(works))}; AUROC of the search against the "
            f"clean controls {told:.3f}"
        )
    broken = sum(s.success[0] >= s.enough > s.success[1] for s in sittings)
    print(f"broken by the attack {broken}, had not taken {sum(s.success[0] < s.enough for s in sittings)}")


if __name__ == "__main__":
    main()
