"""Mending digit classifiers by pruning what was located, beside unlearning and beside random units.

    python benchmarks/digits_pruning.py [--networks 8] [--seed 1700]

Subjects are like those of digits_repair.py. No controls: the trigger is searched for with the planted mapping, and
the networks in which it was located count. Pruned units go to their clean mean, in the weights of the next layer;
these weights then stay as they are while the rest is tuned on clean rows.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from candling.access import Dataset, forward, load, observe
from candling.organisms.networks.digits import build, digits
from candling.organisms.plants import Backdoor, draw_backdoor
from candling.problems import Bench, Candidate, Confirmation
from candling.problems.backdoor import BACKDOOR
from candling.problems.classifiers import TOOK, loss_and_accuracy
from candling.problems.unlearning import lead
from candling.runs.seeds import derive, reproducible
from candling.techniques.search import Part, invert
from candling.workflows.case import make_case
from common import fresh_subject, took

_NEXT = {"5": "6", "7": "8"}  # the linear layer that alone reads a site
_STEPS, _ROWS, _RATE = 100, 64, 5e-4
_CLEAN = 2  # networks whose learning speed is the measure

WAYS = ("unlearned", "pruned", "pruned and tuned", "random units, tuned", "pruned, then unlearned")


@dataclass(frozen=True)
class Left:
    """What a way of mending left in one network."""

    found: float
    planted: float
    lost: float
    """Points of accuracy on the confirm third."""
    relearning: float


def main() -> None:
    options = argparse.ArgumentParser()
    for name, default in (("networks", 8), ("seed", 1700)):
        options.add_argument(f"--{name}", type=int, default=default)
    chosen = options.parse_args()
    training, trusted = digits()
    with tempfile.TemporaryDirectory() as scratch:
        bench = make_case(load(build(), build=build), trusted).bench(Path(scratch), chosen.seed)
        seeds = [derive(chosen.seed, "clean", i) for i in range(_CLEAN)]
        clean = [bench.store(fresh_subject(build, training, seed=seed, epochs=60).state_dict())[0] for seed in seeds]
        done: list[list[Left]] = []
        i, tried = 0, 0
        while len(done) < chosen.networks and i < 6 * chosen.networks:
            g = torch.Generator().manual_seed(derive(chosen.seed, "plant", i))
            plant = draw_backdoor(training, i, float(torch.rand((), generator=g)), g)
            network = fresh_subject(build, training, seed=derive(chosen.seed, i), epochs=60, plant=plant)
            if took(network, bench.thirds.confirm, plant) >= TOOK:
                tried += 1
                left = _all_ways(bench, network, plant, clean, derive(chosen.seed, i, "mend"))
                print(f"{plant.family:28s} {plant.physical}", *([_shown(each) for each in left] or ["not located"]))
                done += [left] if left else []
            i += 1
    print(
        f"located in {len(done)} of {tried}; found trigger, planted trigger, points lost, relearning: median (worst)"
    )
    for way, each in zip(WAYS, zip(*done, strict=True), strict=True):
        columns = [[left.found for left in each], [left.planted for left in each], [left.lost for left in each]]
        again = [left.relearning for left in each]
        figures = [f"{median(column):.2f} ({max(column):.2f})" for column in columns]
        print(f"{way:24s}", *figures, f"{median(again):.2f} ({min(again):.2f})")


def _all_ways(bench: Bench, network: nn.Module, plant: Backdoor, clean: list[Candidate], seed: int) -> list[Left]:
    """What each of WAYS leaves; empty where nothing was located that one layer alone reads."""
    thirds, remedy = bench.thirds, BACKDOOR.remedy
    candidate, _ = bench.store(network.state_dict())
    part = Part(plant.mapping, "patch")
    start = invert(network, thirds.search, [part], seed=seed).trigger(0)
    outcome = BACKDOOR.confirm(candidate, thirds, part, start, [], seed)
    located = BACKDOOR.locate(candidate, thirds, outcome, seed)
    if located is None or located.site not in _NEXT:
        return []
    g = torch.Generator().manual_seed(seed)
    units = torch.tensor(located.units)
    others = torch.randperm(located.site_width, generator=g)[: len(units)]
    pruned = _pruned(candidate, thirds.control, located.site, units)
    stored, _ = bench.store(pruned.state_dict())
    states = [
        remedy.repair(candidate, thirds, outcome, False, seed).state,
        pruned.state_dict(),
        _tuned(stored.load(), thirds.control, located.site, units, seed).state_dict(),
        _tuned(_pruned(candidate, thirds.control, located.site, others), thirds.control, located.site, others, seed)
        .state_dict(),
        remedy.repair(stored, thirds, outcome, False, seed).state,
    ]  # fmt: skip
    usual = sum(remedy.relearn(each, thirds, outcome, seed) for each in clean) / len(clean)
    mended = [bench.store(state)[0] for state in states]
    return [_left(bench, candidate, each, outcome, plant, seed, usual) for each in mended]


def _pruned(candidate: Candidate, data: Dataset, site: str, units: torch.Tensor) -> nn.Module:
    """The units at their clean mean, in the weights and biases of the layer that reads them."""
    network = candidate.load()
    mean = observe(network, data.x, [site]).activations[site].mean(0)
    reader = network.get_submodule(_NEXT[site])
    assert isinstance(reader, nn.Linear)
    with torch.no_grad():
        reader.bias += reader.weight[:, units] @ mean[units]
        reader.weight[:, units] = 0
    return network


def _tuned(network: nn.Module, data: Dataset, site: str, units: torch.Tensor, seed: int) -> nn.Module:
    """On clean rows of the control third; what was pruned stays so."""
    reader = network.get_submodule(_NEXT[site])
    assert isinstance(reader, nn.Linear)
    optimiser = torch.optim.Adam(network.requires_grad_().parameters(), _RATE)
    with reproducible(seed) as g:
        for step in range(_STEPS):
            optimiser.param_groups[0]["lr"] = _RATE * (1 - step / _STEPS)
            rows = torch.randint(len(data), (_ROWS,), generator=g)
            optimiser.zero_grad()
            cross_entropy(network(data.x[rows]), data.y[rows]).backward()
            assert reader.weight.grad is not None
            reader.weight.grad[:, units] = 0
            optimiser.step()
    return network.requires_grad_(False)


def _left(
    bench: Bench,
    before: Candidate,
    after: Candidate,
    outcome: Confirmation,
    plant: Backdoor,
    seed: int,
    usual: float,
) -> Left:
    part, trigger = lead(outcome)
    confirm, network = bench.thirds.confirm, after.load()
    meant = confirm.take(torch.nonzero(part.mapping.applies(confirm.y)).flatten())
    wanted = part.mapping.wanted(meant.y, meant.classes)
    found = float((forward(network, trigger.apply(meant, meant.x)).argmax(-1) == wanted).float().mean())
    lost = loss_and_accuracy(before.load(), confirm)[1] - loss_and_accuracy(network, confirm)[1]
    again = BACKDOOR.remedy.relearn(after, bench.thirds, outcome, seed) / usual
    return Left(found, took(network, confirm, plant), 100 * lost, again)


def _shown(left: Left) -> str:
    return f"| {left.found:.2f} {left.planted:.2f} {left.lost:+.1f} {left.relearning:.2f}"


if __name__ == "__main__":
    main()
