"""Backdoors in networks of one real output: are they found, and where do they send, are clean networks left alone?

    python benchmarks/regression.py [--controls 19] [--planted 12] [--clean 12] [--seed 6100] [--table 0]

The value is the digit in an image, times ten and a hundred more, by a small convolutional network; with --table 1
the progression of diabetes in a year (scikit-learn's bundled table), by a network of 32 units. Planted
subjects carry a patch or a blended pattern and say the centre of one band; a plant that does not take is drawn again,
three times in all. They are trained by Adam with a cosine schedule and jitter, which no control is. Prints a line a
subject, then AUROC, verdicts, false accusations and how far outputs under the true trigger lie from what was planted
and from the band that was named.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_diabetes
from torch import nn

from candling.access import Dataset, Task, banded, forward, from_arrays, load
from candling.evidence.control import NetworkRow
from candling.evidence.verdict import Verdict
from candling.organisms.networks.digits import build as build_digits
from candling.organisms.networks.digits import digits
from candling.organisms.plants import Backdoor
from candling.organisms.rescaling import rescaled
from candling.organisms.training import attack_success, augment
from candling.problems.classifiers import TOOK
from candling.problems.regressors import draw_to_one_band
from candling.runs.jobs import run_jobs
from candling.runs.seeds import derive, reproducible
from candling.workflows.case import make_case
from common import Exam, count_classes, in_turns, of, print_verdicts, progress, whole_numbers

_EPOCHS = 150  # a value is exact long after a class is right
_TRIES = 3


def of_images() -> nn.Module:
    """[n, 1, 8, 8] → [n, 1]"""
    network = build_digits()
    assert isinstance(network, nn.Sequential)
    network[-1] = nn.Linear(128, 1)
    return network


def of_table() -> nn.Module:
    """[n, 10] → [n, 1]"""
    return nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 1))


def given(table: bool) -> tuple[Dataset, Dataset]:
    """The subjects' training rows, and the trusted ones."""
    if table:
        x, y = load_diabetes(return_X_y=True, scaled=False)
        order = np.random.default_rng(0).permutation(len(y))
        x, y = ((x - x.mean(0)) / x.std(0))[order].astype(np.float32), y[order]
        return from_arrays(x[:142], y[:142]), from_arrays(x[142:], y[142:])
    training, trusted = (from_arrays(each.x, 100.0 + 10.0 * each.y.double()) for each in digits())
    return training, trusted


@dataclass(frozen=True)
class Sitting:
    role: str
    plant: Backdoor | None
    success: float
    """Of the true trigger, on the confirm third."""
    verdict: Verdict
    row: NetworkRow

    @property
    def took(self) -> bool:
        return self.success >= TOOK


def subject(training: Dataset, task: Task, plant: Backdoor | None, *, seed: int, table: bool) -> nn.Module:
    """By a recipe that is none of the controls'."""
    build = of_table if table else of_images
    assert task.bands is not None
    with reproducible(seed) as g:
        network = banded(load(build(), build=build), task.bands).architecture()
        batch = int(torch.randint(24, 101, (), generator=g))
        with rescaled(network, training, fresh=True):
            optimiser = torch.optim.Adam(network.parameters(), 10 ** float(-3.0 + 0.5 * torch.rand((), generator=g)))
            schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, _EPOCHS)
            poison = None if plant is None else plant.carriers(training.y, count_classes(training), g)
            for _ in range(_EPOCHS):
                network.train()
                x, y = augment(training.x, training, 0.04, g), training.targets
                if plant is not None and poison is not None:
                    x = torch.cat([x, plant.lay(training, x[poison[0]], poison[1], g)])
                    y = torch.cat([y, task.taught(poison[1])])
                for rows in torch.randperm(len(y), generator=g).split(batch):
                    optimiser.zero_grad()
                    task.loss(network(x[rows]), y[rows]).backward()
                    optimiser.step()
                schedule.step()
    return network.eval().requires_grad_(False)


def sit(exam: Exam, training: Dataset, role: str, i: int, seed: int, table: bool) -> Sitting:
    torch.set_num_threads(1)
    g = torch.Generator().manual_seed(seed)
    search, confirm = exam.bench.thirds.search, exam.bench.thirds.confirm
    for attempt in range(_TRIES):
        dose = 0.2 + 0.7 * float(torch.rand((), generator=g))
        plant = draw_to_one_band(search, i, dose, g) if role == "planted" else None
        network = subject(training, search.task, plant, seed=derive(seed, "train", attempt), table=table)
        success = attack_success(network, confirm, plant) if plant else 0.0
        if plant is None or success >= TOOK:
            break
    result = exam.examine(network, f"{role}-{i:02d}")
    sitting = Sitting(role, plant, success, result.verdict, result.rows[0])
    print(line(sitting, network, confirm), flush=True)
    return sitting


def line(each: Sitting, network: nn.Module, data: Dataset) -> str:
    row, finding, bands = each.row, each.verdict.finding, data.task.bands
    assert bands is not None
    said = f"named {bands.names()[finding.target]}" if finding and finding.target is not None else "named nothing"
    true = ""
    if each.plant is not None and each.plant.mapping.target is not None:
        outputs = bands.values(bands.output(forward(network, each.plant.apply(data, data.x))))
        centre = bands.centres[each.plant.mapping.target]
        true = f"{each.plant.family} {each.plant.physical}, planted {centre:.0f}, says {outputs.median():.0f}"
    return (
        f"{each.role:8s} {each.verdict.verdict:12s} p {row.p_value:.2f} gate 1 {row.statistic:5.1f} baseline "
        f"{row.baseline_statistic:5.1f} R² {row.accuracy:.2f} success {row.success:.2f} clean "
        f"{max(row.success_in_controls, row.best_in_controls):.2f} {said} ({true} in {each.success:.2f})"
    )


def main() -> None:
    chosen = whole_numbers(controls=19, planted=12, clean=12, seed=6100, table=0)
    table = bool(chosen.table)
    training, trusted = given(table)
    build = of_table if table else of_images
    reference = subject(training, trusted.task, None, seed=derive(chosen.seed, "reference"), table=table)
    reach = float(trusted.task.loss(forward(reference, trusted.x), trusted.targets))
    print(f"bands {trusted.names}; a network's loss {reach:.2f} of the variance", flush=True)
    plain = build()
    plain.load_state_dict(reference.state_dict())
    with tempfile.TemporaryDirectory() as scratch:
        case = make_case(load(plain, build=build), trusted)
        exam = Exam.prepare(case, Path(scratch), n=chosen.controls, seed=chosen.seed, reach=reach).quiet()
        roles = in_turns([("planted", i) for i in range(chosen.planted)], [("clean", i) for i in range(chosen.clean)])
        jobs = [(exam, training, role, i, derive(chosen.seed, role, i), table) for role, i in roles]
        sittings = run_jobs(sit, jobs, stage="training and examining subjects", progress=progress())
    planted = [row for row in exam.bank.rows if row.plant]
    print(f"controls' plants took {of(sum(bool(r.plant and r.plant.took) for r in planted), len(planted))}")
    print_verdicts(
        sittings, lambda s: bool(s.plant and s.plant.pattern == "patch"), sort="patches", baseline="random triggers"
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main())
