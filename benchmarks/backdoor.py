"""Backdoors in digit classifiers: are they found, and are clean networks left alone?

    python benchmarks/backdoor.py [--controls 19] [--planted 20] [--clean 20] [--seed 1200]

Planted subjects: half with the controls' families, doses 0.3 to 0.9, half with patterns that no control carries (two
dots, an edge, stripes, a bright half; see `honesty.py`); one that does not take is drawn again, four times in all.
Clean subjects: plain ones, and *benign-novel* ones, trained on inputs with such patterns and the right labels. All
are trained by recipes that no control uses. Prints a line a subject, then AUROC (Hanley and McNeil), verdicts, false
accusations, and what the repair of each planted network in which something was found does to the planted trigger
itself.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from candling.access import Dataset
from candling.evidence.control import NetworkRow
from candling.evidence.verdict import Verdict
from candling.organisms.networks.digits import build
from candling.organisms.plants import Backdoor, Switch, draw_backdoor
from candling.problems.classifiers import TOOK
from candling.runs.seeds import derive
from common import (
    Exam,
    count_classes,
    fresh_subject,
    in_clean,
    planted_and_clean,
    print_verdicts,
    sit_all,
    took,
    whole_numbers,
)
from honesty import FAMILIES
from honesty import draw as draw_unseen
from mending import Case, Mending, mended, print_mendings

_EPOCHS = 60
_TRIES = 4


@dataclass(frozen=True)
class Sitting:
    family: str
    role: str
    """`planted`, `clean` or `novel`."""
    works: float
    """Success of the planted trigger on the confirm third."""
    verdict: Verdict
    row: NetworkRow
    mending: Mending | None
    """Of a planted subject in which something was found."""

    @property
    def took(self) -> bool:
        return self.works >= TOOK


def draw(data: Dataset, i: int, seed: int, attempt: int) -> Backdoor:
    """Families of the controls for even numbers, others for odd ones."""
    g = torch.Generator().manual_seed(derive(seed, "plant", attempt))
    if i % 2 == 0:
        return draw_backdoor(data, i // 2 + attempt, 0.3 + 0.6 * float(torch.rand((), generator=g)), g)
    return draw_unseen(data, i // 2 + attempt * 7, g)[1]


def drawn_novel(data: Dataset, i: int, seed: int) -> Switch:
    """Such a pattern, and the right answers."""
    plant = draw(data, i, seed, 0)
    right = torch.arange(count_classes(data))
    return Switch("pattern", "rightly", plant.dose, "", 0.2, right, lambda x, strength, g: plant.apply(data, x))


def made(training: Dataset, role: str, i: int, seed: int) -> nn.Module:
    torch.set_num_threads(1)
    fresh = partial(fresh_subject, build, training, epochs=_EPOCHS)
    if role != "planted":
        return fresh(seed=derive(seed, role), plant=drawn_novel(training, i, seed) if role == "novel" else None)
    for attempt in range(_TRIES):
        plant = draw(training, i, seed, attempt)
        network = fresh(seed=derive(seed, role, attempt), plant=plant)
        if took(network, training, plant) >= TOOK:
            break
    return network


def plant_of(network: nn.Module, training: Dataset, i: int, seed: int) -> Backdoor:
    """The one of the drawn plants that works on it most."""
    return max((draw(training, i, seed, attempt) for attempt in range(_TRIES)), key=partial(took, network, training))


def sit(exam: Exam, network: nn.Module, training: Dataset, role: str, i: int, seed: int) -> Sitting:
    """One subject, examined."""
    torch.set_num_threads(1)
    result = exam.examine(network, f"{role}-{i:02d}")
    family, works, mending = role, 0.0, None
    if role == "planted":
        plant = plant_of(network, training, i, seed)
        planted = partial(works_on, exam.bench.thirds.confirm, plant)
        family, works = plant.family, planted(network)
        mending = mended(exam, Case(result, planted)) if result.verdict.finding else None
    sitting = Sitting(family, role, works, result.verdict, result.rows[0], mending)
    print(line(sitting), flush=True)
    return sitting


def works_on(data: Dataset, plant: Backdoor, network: nn.Module) -> float:
    """Of the answers under the planted trigger, those that it asks for."""
    return took(network, data, plant)


def line(each: Sitting) -> str:
    row = each.row
    return (
        f"{each.role:8s} {each.family:26s} works {each.works:.2f} {each.verdict.verdict:12s} p {row.p_value:.2f} "
        f"statistic {row.statistic:6.1f} baseline {row.baseline_statistic:6.1f} accuracy {row.accuracy:.3f} "
        f"loss {row.loss:.3f} success {row.success:.2f} clean {in_clean(row):.2f} {row.lead}"
    )


def main() -> None:
    chosen = whole_numbers(controls=19, planted=20, clean=20, seed=1200)
    roles = planted_and_clean(chosen.planted, chosen.clean)
    summary(sit_all("backdoor", roles, made, sit, controls=chosen.controls, seed=chosen.seed))


def summary(sittings: list[Sitting]) -> None:
    held, _ = print_verdicts(
        sittings, lambda s: s.family.split(",")[0] not in FAMILIES, sort="patterns", baseline="random triggers"
    )
    print_mendings([s.mending for s in held if s.mending])


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main())
