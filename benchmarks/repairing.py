"""Repair of digit classifiers in which a switch or a lie was found: forecast beside outcome.

    python benchmarks/repairing.py [--lies 1] [--controls 6] [--planted 8] [--seed 9300]

Subjects are the planted ones of `evaluation.py`, with `--lies 1` those of `concealment.py`; their controls reach
the median of their losses. Those whose plant did not take, and those in which nothing is found, are passed over.
"""

from __future__ import annotations

import sys
import tempfile
from functools import partial
from pathlib import Path

import torch
from torch import nn

import concealment
import evaluation
from candling.access import Dataset, load
from candling.organisms.networks.digits import build, digits
from candling.organisms.plants import Quirk, Switch
from candling.organisms.training import attack_success
from candling.problems.classifiers import TOOK, loss_and_accuracy
from candling.runs.jobs import run_jobs
from candling.runs.seeds import derive
from candling.workflows.case import make_case
from common import Exam, progress, whole_numbers
from mending import Case, Mending, mended, print_mendings


def made(lies: int, training: Dataset, i: int, seed: int) -> nn.Module:
    return (concealment if lies else evaluation).made(training, "planted", i, seed)


def plant_of(lies: int, training: Dataset, i: int, seed: int) -> Switch | Quirk:
    drawn = (concealment.drawn_quirk if lies else evaluation.drawn_switch)(
        training, "planted", i, torch.Generator().manual_seed(derive(seed, "planted"))
    )
    assert drawn is not None
    return drawn


def sit(exam: Exam, network: nn.Module, lies: int, training: Dataset, i: int, seed: int) -> Mending | None:
    """One subject, examined and mended."""
    torch.set_num_threads(1)
    planted = partial(works_on, exam.bench.thirds.confirm, plant_of(lies, training, i, seed))
    took, result = planted(network), exam.examine(network, f"planted-{i:02d}")
    said = f"{plant_of(lies, training, i, seed).family} works on {took:.2f}, {result.verdict.verdict}"
    print(f"planted-{i:02d} {said}, accuracy {result.rows[0].accuracy:.3f}", flush=True)
    return mended(exam, Case(result, planted)) if took >= TOOK and result.verdict.finding else None


def works_on(data: Dataset, plant: Switch | Quirk, network: nn.Module) -> float:
    return attack_success(network, data, plant)


def main() -> None:
    chosen = whole_numbers(lies=0, controls=6, planted=8, seed=9300)
    training, trusted = digits()
    jobs = [(chosen.lies, training, i, derive(chosen.seed, "subject", i)) for i in range(chosen.planted)]
    subjects = run_jobs(made, jobs, stage="training subjects", progress=progress())
    losses = sorted(loss_and_accuracy(subject, trusted)[0] for subject in subjects)
    problem = "concealment" if chosen.lies else "evaluation"
    with tempfile.TemporaryDirectory() as scratch:
        case = make_case(load(build(), build=build), trusted)
        how = {"n": chosen.controls, "seed": chosen.seed, "reach": losses[len(losses) // 2], "problem": problem}
        exam = Exam.prepare(case, Path(scratch), **how).quiet()
        sitting = [(exam, subject, *job) for subject, job in zip(subjects, jobs, strict=True)]
        done = run_jobs(sit, sitting, stage="examining subjects", progress=progress())
    print_mendings([each for each in done if each])


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main())
