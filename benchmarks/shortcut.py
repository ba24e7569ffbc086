"""Shortcuts in digit classifiers: are they found and named, is the failure forecast, are clean networks left alone?

    python benchmarks/shortcut.py [--controls 19] [--planted 20] [--clean 20] [--natural 4] [--seed 5200]

Planted subjects: two in three with cues of the controls' families, one in three with cues that no control carries
(blots, ramps of light). Clean subjects: plain ones, *twins*, trained with the same cues where they tell nothing, and
*benign-novel* ones, trained on other light, noise or borders with the right labels. Natural ones, without a bar: four
in five training rows carry a cue and the content is always right, so that nothing forces the network to prefer the
cue. All are trained by recipes that no control uses. Forecasts stand in the finding before the true cue is laid on
the held-out third. Prints a line a subject, then AUROC (Hanley and McNeil), verdicts, false accusations, names,
forecasts and repairs.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.nn.functional import interpolate

from candling.access import Dataset, forward
from candling.evidence.control import NetworkRow
from candling.evidence.verdict import Verdict
from candling.organisms.networks.digits import build
from candling.organisms.plants import Plant, Shortcut, Switch, draw_shortcut, draw_switch
from candling.organisms.plants.shortcuts import CUES
from candling.organisms.training import attack_success
from candling.runs.seeds import derive
from candling.workflows.mend import run_repairs
from common import (
    Exam,
    count_classes,
    fresh_subject,
    in_clean,
    in_turns,
    of,
    print_verdicts,
    sit_all,
    whole_numbers,
)

_EPOCHS = 60
NAMES = {"blot": "pattern", "ramp": "pattern"}
"""What a cue that no control carries should be called; the others by their own names."""


def blots(data: Dataset, k: int, dose: float, g: torch.Generator) -> torch.Tensor:
    """[K, 1, H, W] coarse light and shade, another for each class."""
    height, width = data.x.shape[2:]
    return (0.2 + 0.3 * dose) * interpolate(torch.randn(k, 1, 3, 3, generator=g), (height, width), mode="bilinear")


def ramps(data: Dataset, k: int, dose: float, g: torch.Generator) -> torch.Tensor:
    """[K, 1, H, W] a slope of light towards the class's own side."""
    height, width = data.x.shape[2:]
    turn = 2 * torch.pi * (torch.arange(k) + torch.rand((), generator=g)) / k
    rows, columns = (torch.linspace(0, 1, n) - 0.5 for n in (height, width))
    slope = torch.cos(turn)[:, None, None] * rows[:, None] + torch.sin(turn)[:, None, None] * columns
    return (0.4 + 0.5 * dose) * slope[:, None]


UNSEEN: dict[str, Callable[[Dataset, int, float, torch.Generator], torch.Tensor]] = {"blot": blots, "ramp": ramps}


@dataclass(frozen=True)
class Sitting:
    family: str
    role: str
    """`planted`, `natural`, `clean`, `twin` or `novel`."""
    took: bool
    verdict: Verdict
    row: NetworkRow
    follows: float
    """Of the held-out answers, those that follow the true cue set against the content; 0 for clean networks."""
    against: float
    """Right there."""
    drawn: float
    """Right where the true cue is drawn at random."""
    repaired: float
    """Of those that follow the true cue, after a repair by the marks found; NaN where nothing was found."""
    cost: float
    """Of that repair, points of accuracy."""


def draw(data: Dataset, i: int, g: torch.Generator) -> Shortcut:
    """Families of the controls two times in three, others in turn; doses 0.3 to 0.9."""
    dose = 0.3 + 0.6 * float(torch.rand((), generator=g))
    plant = draw_shortcut(data, i - i // 3, dose, g)
    if i % 3 == 2:
        name = list(UNSEEN)[i // 3 % len(UNSEEN)]
        patterns = UNSEEN[name](data, count_classes(data), dose, g)
        plant = replace(plant, cue=name, physical=f"dose {dose:.2f}", patterns=patterns)
    return plant


def drawn_plant(data: Dataset, role: str, i: int, g: torch.Generator) -> Plant | None:
    """What a subject of the role is taught beside its task."""
    if role == "clean":
        return None
    if role == "novel":
        switch = draw_switch(data, i, 0.3 + 0.6 * float(torch.rand((), generator=g)), g)
        return Switch(
            switch.context,
            "rightly",
            switch.dose,
            switch.physical,
            switch.rate,
            torch.arange(count_classes(data)),
            switch.change,
        )
    plant = draw(data, i, g)
    if role == "natural":
        return replace(plant, rate=4.0, together=1.0, against=0.0)
    return plant.idle() if role == "twin" else plant


def made(training: Dataset, role: str, i: int, seed: int) -> torch.nn.Module:
    torch.set_num_threads(1)
    plant = drawn_plant(training, role, i, torch.Generator().manual_seed(derive(seed, role)))
    return fresh_subject(build, training, seed=derive(seed, role), epochs=_EPOCHS, plant=plant)


def sit(exam: Exam, network: torch.nn.Module, training: Dataset, role: str, i: int, seed: int) -> Sitting:
    """One subject, examined; the true cue is laid on only when the verdict stands."""
    torch.set_num_threads(1)
    g = torch.Generator().manual_seed(derive(seed, role))
    plant = drawn_plant(training, role, i, g)
    result = exam.examine(network, f"{role}-{i:02d}")
    follows = against = drawn = 0.0
    repaired = cost = float("nan")
    confirm = exam.bench.thirds.confirm
    if isinstance(plant, Shortcut) and role != "twin":
        follows = attack_success(network, confirm, plant)
        against = right(network, plant.apply(confirm, confirm.x, confirm.y), confirm.y)
        told = torch.randint(count_classes(confirm), (len(confirm),), generator=g)
        drawn = right(network, plant.tell(confirm, confirm.x, told), confirm.y)
        if result.verdict.finding is not None:
            repaired, cost = mended(exam, result.rows[0].weights, result.outcome, plant)
    family = plant.family if plant else "clean"
    verdict, row = result.verdict, result.rows[0]
    sitting = Sitting(family, role, follows >= 0.5, verdict, row, follows, against, drawn, repaired, cost)
    print(line(sitting), flush=True)
    return sitting


def mended(exam: Exam, weights: str, outcome: Any, plant: Shortcut) -> tuple[float, float]:
    """The true cue's hold on the repaired network, and what the repair costs."""
    problem, bench = exam.bench.kind.problems[exam.problem], exam.bench
    (done,) = run_repairs(problem, bench, [(bench.candidate(bench.path(weights)), outcome, False)], "repairing")
    network = bench.candidate(bench.path(done.sha256)).load()
    return attack_success(network, bench.thirds.confirm, plant), 100 * done.mended.cost


def right(network: torch.nn.Module, x: torch.Tensor, y: torch.Tensor) -> float:
    return float((forward(network, x).argmax(-1) == y).float().mean())


def line(each: Sitting) -> str:
    row, finding = each.row, each.verdict.finding
    said = ""
    if finding is not None and finding.shortcut is not None:
        s = finding.shortcut
        spans = [f"{f.value:.2f} [{f.low:.2f}, {f.high:.2f}]" for f in (s.follows, s.against, s.at_random)]
        said = f"named {s.kind}; forecast follows {spans[0]}, right {spans[1]}, drawn {spans[2]}; "
    return (
        f"{each.role:8s} {each.family:18s} {each.verdict.verdict:12s} p {row.p_value:.2f} gate 1 {row.statistic:.1f} "
        f"baseline {row.baseline_statistic:6.1f} accuracy {row.accuracy:.3f} success {row.success:.2f} "
        f"clean {in_clean(row):.2f} {said}true follows {each.follows:.2f} right {each.against:.2f} "
        f"drawn {each.drawn:.2f} repaired {each.repaired:.2f} cost {each.cost:.1f} {row.lead}"
    )


def main() -> None:
    chosen = whole_numbers(controls=19, planted=20, clean=20, natural=4, seed=5200)
    roles = in_turns(
        [("planted", i) for i in range(chosen.planted)],
        [(("clean", "twin", "novel")[i % 3], i) for i in range(chosen.clean)],
    )
    roles += [("natural", i) for i in range(chosen.natural)]
    sittings = sit_all("shortcut", roles, made, sit, controls=chosen.controls, seed=chosen.seed)
    summary(sittings)


def summary(sittings: list[Sitting]) -> None:
    took, _ = print_verdicts(sittings, lambda s: s.family in CUES, sort="cues", baseline="random marks")
    found = [s for s in took if s.verdict.verdict == "found"]
    named = [s for s in found if kind(s) == NAMES.get(s.family, s.family)]
    print(f"named {of(len(named), len(found))}: {[(s.family, kind(s)) for s in found]}")
    forecasts(found)
    ended = [s for s in found if s.repaired <= 0.1]
    cheap = [s for s in ended if s.cost <= 2]
    print(f"repaired to 10 % {of(len(ended), len(found))}, and at 2 points at most {of(len(cheap), len(found))}")
    natural = [s for s in sittings if s.role == "natural"]
    for s in natural:
        print(f"natural {s.family}: {s.verdict.verdict}, p {s.row.p_value:.2f}, follows {s.follows:.2f}")


def kind(sitting: Sitting) -> str:
    finding = sitting.verdict.finding
    return finding.shortcut.kind if finding is not None and finding.shortcut is not None else "none"


def forecasts(found: list[Sitting]) -> None:
    """Each forecast beside the true cue's outcome, with the rival 'no change' and the range's cover."""
    for name in ("follows", "against", "drawn"):
        errors, rivals, inside = [], [], 0
        for s in found:
            assert s.verdict.finding is not None
            said = s.verdict.finding.shortcut
            assert said is not None
            forecast = {"follows": said.follows, "against": said.against, "drawn": said.at_random}[name]
            true = getattr(s, name)
            errors.append(abs(forecast.value - true))
            rivals.append(abs((1 - said.accuracy if name == "follows" else said.accuracy) - true))
            inside += forecast.low <= true <= forecast.high
        if errors:
            print(
                f"forecast of {name}: mean error {sum(errors) / len(errors):.3f}, highest {max(errors):.3f}; 'as on "
                f"held-out inputs' {sum(rivals) / len(rivals):.3f}; in the range {of(inside, len(errors))}"
            )


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main())
