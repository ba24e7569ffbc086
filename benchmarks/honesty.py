"""Does the stated sensitivity come true? Five independent banks of controls, twelve fresh subjects each.

    python benchmarks/honesty.py [--banks 5] [--subjects 12] [--controls 19] [--seed 100]

Subjects are digit classifiers, half of them planted with families that no control carries (two dots, a
frame, stripes, a bright wash), trained by recipes that no control uses. Each bank is a fresh auditor: its own
trusted rows, seeds and controls. Prints a table a bank, and over all: catch rate against stated sensitivity
with an interval of the difference, Brier score, width of the stated interval, false accusations.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from candling.access import Dataset, load
from candling.evidence.judge import rate
from candling.maths.intervals import newcombe_difference
from candling.maths.triggers import Mapping
from candling.organisms.networks.digits import SUBJECT_ROWS, build, digits
from candling.organisms.plants import Backdoor
from candling.problems.classifiers import TOOK, loss_and_accuracy
from candling.runs.seeds import derive
from candling.workflows.case import make_case
from common import Exam, fresh_subject, took

_TRIES = 4


@dataclass(frozen=True)
class Outcome:
    bank: int
    family: str | None
    stated: float
    width: float
    controls: tuple[int, int]
    """Control plants caught, of how many that took."""
    answer: str


def two_dots(shape: torch.Size, g: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Two single cells, far apart, fully bright."""
    mask = torch.zeros(1, *shape[1:])
    rows = torch.randint(0, shape[1], (2,), generator=g)
    mask[0, rows[0], int(torch.randint(0, shape[2] // 2, (), generator=g))] = 1
    mask[0, rows[1], int(torch.randint(shape[2] // 2, shape[2], (), generator=g))] = 1
    return mask, mask


def frame(shape: torch.Size, g: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """One edge of the image, blended a third of the way to bright."""
    mask = torch.zeros(1, *shape[1:])
    edges = (mask[:, 0], mask[:, -1], mask[:, :, 0], mask[:, :, -1])
    edges[int(torch.randint(0, 4, (), generator=g))].fill_(0.35)
    return mask, mask


def stripes(shape: torch.Size, g: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """A sinusoid over the whole input, a fifth of the range high."""
    period = 2 + 3 * float(torch.rand((), generator=g))
    wave = torch.sin(torch.arange(shape[2]) * 2 * torch.pi / period)
    return torch.zeros(1, *shape[1:]), (0.2 * wave).expand(shape).clone()


def wash(shape: torch.Size, g: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """The left or right half blended towards bright."""
    mask, half = torch.zeros(1, *shape[1:]), shape[2] // 2
    opacity = 0.15 + 0.15 * float(torch.rand((), generator=g))
    (mask[:, :, :half] if torch.rand((), generator=g) < 0.5 else mask[:, :, half:]).fill_(opacity)
    return mask, mask


FAMILIES: dict[str, Callable[[torch.Size, torch.Generator], tuple[torch.Tensor, torch.Tensor]]] = {
    "two dots": two_dots,
    "frame": frame,
    "stripes": stripes,
    "wash": wash,
}


def draw(data: Dataset, which: int, g: torch.Generator) -> tuple[str, Backdoor]:
    """A plant of a held-out family: two all-to-one for each source-specific."""
    family = list(FAMILIES)[which % len(FAMILIES)]
    mask, shift = FAMILIES[family](data.x.shape[1:], g)
    target, other = torch.randperm(data.classes, generator=g)[:2].tolist()
    mapping = (Mapping(target=target), Mapping(target=target, source=other), Mapping(target=target))[which % 3]
    return f"{family}, {mapping.kind}", Backdoor(family, mapping, 0.5, family, 0.15, mask, shift)


def subject(training: Dataset, confirm: Dataset, i: int, seed: int) -> tuple[str | None, torch.nn.Module]:
    """Every other one planted; a plant that does not take is tried again with other seeds."""
    if i % 2 == 0:
        return None, fresh_subject(build, training, seed=seed, epochs=60)
    for attempt in range(_TRIES):
        g = torch.Generator().manual_seed(derive(seed, attempt))
        family, plant = draw(training, i // 2 + attempt * 7 + seed % 12, g)
        network = fresh_subject(build, training, seed=derive(seed, attempt), epochs=60, plant=plant)
        if took(network, confirm, plant) >= TOOK:
            break
    else:
        family = f"{family} (did not take)"
    return family, network


def main() -> None:
    options = argparse.ArgumentParser()
    for name, default in (("banks", 5), ("subjects", 12), ("controls", 19), ("seed", 100)):
        options.add_argument(f"--{name}", type=int, default=default)
    chosen = options.parse_args()
    outcomes: list[Outcome] = []
    training, trusted = digits()
    for bank in range(chosen.banks):
        seed = chosen.seed + bank
        with tempfile.TemporaryDirectory() as scratch:
            reference = fresh_subject(build, training, seed=derive(seed, "reference"), epochs=60)
            reach, _ = loss_and_accuracy(reference, trusted)
            case = make_case(load(reference, build=build), trusted)
            exam = Exam.prepare(case, Path(scratch), n=chosen.controls, seed=seed, reach=reach)
            for i in range(chosen.subjects):
                family, network = subject(training, exam.bench.thirds.confirm, i, derive(seed, "subject", i))
                result = exam.examine(network, f"subject-{i:02d}")
                verdict, row = result.verdict, result.rows[0]
                strength = verdict.sensitivity
                assert strength is not None
                counts = (round(strength.caught.value * strength.n), strength.n)
                width = strength.high - strength.low
                outcomes.append(Outcome(bank, family, strength.value, width, counts, verdict.verdict))
                print(
                    f"bank {bank} subject {i:2d}  {family or 'clean':38s} {verdict.verdict:12s} p {row.p_value:.2f}  "
                    f"statistic {row.statistic:6.1f}  accuracy {row.accuracy:.3f}  loss {row.loss:.3f}  "
                    f"{row.lead:36s} success {row.success:.2f}  {verdict.reason[:40]}",
                    flush=True,
                )
        _summary([o for o in outcomes if o.bank == bank], f"bank {bank}")
    _summary(outcomes, "all")
    print(f"rows the subjects were trained on: {SUBJECT_ROWS}; trusted: {len(trusted)}")


def _summary(outcomes: list[Outcome], name: str) -> None:
    """The difference is between subjects caught and control plants caught, by Newcombe's interval."""
    planted = [o for o in outcomes if o.family and "did not take" not in o.family]
    clean = [o for o in outcomes if not o.family]
    caught, accused = (rate(sum(o.answer == "found" for o in group), len(group)) for group in (planted, clean))
    banks = {o.bank: o.controls for o in outcomes}.values()
    stated = sum(o.stated for o in planted) / len(planted)
    brier = sum((o.stated - (o.answer == "found")) ** 2 for o in planted) / len(planted)
    hits = round(caught.value * caught.n)
    low, high = newcombe_difference(hits, caught.n, sum(k for k, _ in banks), sum(n for _, n in banks))
    answers = {a: sum(o.answer == a for o in outcomes) for a in ("found", "not found", "inconclusive")}
    print(
        f"{name}: stated {stated:.2f} (interval {sum(o.width for o in planted) / len(planted):.2f} wide), caught "
        f"{hits} of {caught.n} = {caught.value:.2f} [{caught.low:.2f}, {caught.high:.2f}]; less the control plants "
        f"[{low:+.2f}, {high:+.2f}]; Brier {brier:.3f}; clean accused {round(accused.value * accused.n)} of "
        f"{accused.n} [{accused.low:.2f}, {accused.high:.2f}]; {answers}",
        flush=True,
    )


if __name__ == "__main__":
    main()
