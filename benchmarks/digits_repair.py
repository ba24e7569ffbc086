"""Repair of ten classifiers in which a backdoor was found: forecast beside outcome.

    python benchmarks/digits_repair.py [--controls 11] [--found 10] [--seed 300]

Subjects are digit classifiers by recipes that no control uses, with plants of the controls' families.
"""

from __future__ import annotations

import argparse
import tempfile
from functools import partial
from pathlib import Path

import torch

import mending
from candling.access import Dataset, load
from candling.organisms.networks.digits import build, digits
from candling.organisms.plants import Backdoor, draw_backdoor
from candling.problems.classifiers import TOOK, loss_and_accuracy
from candling.runs.seeds import derive
from candling.workflows.case import make_case
from common import Exam, fresh_subject, took


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
        while len(cases) < chosen.found and i < 3 * chosen.found:
            g = torch.Generator().manual_seed(derive(chosen.seed, "plant", i))
            plant = draw_backdoor(training, i, float(torch.rand((), generator=g)), g)
            network = fresh_subject(build, training, seed=derive(chosen.seed, i), epochs=60, plant=plant)
            success = took(network, exam.bench.thirds.confirm, plant)
            examination = exam.examine(network, f"planted-{i:02d}")
            verdict = examination.verdict
            print(
                f"{plant.family:28s} {plant.physical} success {success:.2f} {verdict.verdict} p {verdict.p_value}",
                flush=True,
            )
            if verdict.verdict == "found" and success >= TOOK:
                cases.append(mending.Case(examination, partial(_success, exam.bench.thirds.confirm, plant)))
            i += 1
        mending.repairs(exam, cases)


def _success(data: Dataset, plant: Backdoor, network: torch.nn.Module) -> float:
    return took(network, data, plant)


if __name__ == "__main__":
    main()
