"""Repair of ten classifiers in which a backdoor was found: forecast beside outcome.

    python benchmarks/digits_repair.py [--controls 11] [--found 10] [--seed 300]

Subjects are digit classifiers by recipes that no control uses, with plants of the controls' families. Those whose
plant did not take are passed over.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import nn

import mending
from candling.access import Dataset, load
from candling.organisms.networks.digits import build, digits
from candling.organisms.plants import Backdoor, draw_backdoor
from candling.problems.classifiers import TOOK, loss_and_accuracy
from candling.runs.jobs import run_jobs
from candling.runs.seeds import derive
from candling.workflows.case import make_case
from common import Exam, fresh_subject, progress, took


def main() -> None:
    options = argparse.ArgumentParser()
    for name, default in (("controls", 11), ("found", 10), ("seed", 300)):
        options.add_argument(f"--{name}", type=int, default=default)
    chosen = options.parse_args()
    training, trusted = digits()
    reference = fresh_subject(build, training, seed=derive(chosen.seed, "reference"), epochs=60)
    reach, _ = loss_and_accuracy(reference, trusted)
    with tempfile.TemporaryDirectory() as scratch:
        case = make_case(load(reference, build=build), trusted)
        exam = Exam.prepare(case, Path(scratch), n=chosen.controls, seed=chosen.seed, reach=reach)
        cases: list[mending.Case] = []
        i = 0
        while len(cases) < chosen.found and i < 4 * chosen.found:
            jobs = [(exam.bench.thirds.confirm, chosen.seed, i + k) for k in range(chosen.found)]
            i += len(jobs)
            made = run_jobs(_subject, jobs, stage="training subjects", progress=progress())
            good = [each for each in made if each.success >= TOOK]
            print(f"{len(good)} of {len(made)} plants took", flush=True)
            named = [(f"planted-{each.number:02d}", each.network) for each in good]
            for subject, examination in zip(good, exam.examine_all(named), strict=True):
                plant, verdict = subject.plant, examination.verdict
                print(
                    f"{plant.family:28s} {plant.physical} success {subject.success:.2f} {verdict.verdict} "
                    f"p {verdict.p_value}",
                    flush=True,
                )
                if verdict.verdict == "found":
                    cases.append(mending.Case(examination, partial(_success, exam.bench.thirds.confirm, plant)))
        mending.repairs(exam, cases[: chosen.found], at_once=True)


@dataclass(frozen=True)
class Subject:
    """A digit classifier with a plant that may have taken."""

    number: int
    network: nn.Module
    plant: Backdoor
    success: float


def _subject(confirm: Dataset, seed: int, number: int) -> Subject:
    training, _ = digits()
    g = torch.Generator().manual_seed(derive(seed, "plant", number))
    plant = draw_backdoor(training, number, float(torch.rand((), generator=g)), g)
    network = fresh_subject(build, training, seed=derive(seed, number), epochs=60, plant=plant)
    return Subject(number, network, plant, took(network, confirm, plant))


def _success(data: Dataset, plant: Backdoor, network: nn.Module) -> float:
    return took(network, data, plant)


if __name__ == "__main__":
    main()
