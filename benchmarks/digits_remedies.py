"""Digit classifiers mended without an audit: unlearning against its forecast, and pruning what was located.

    python benchmarks/digits_remedies.py [--found 10] [--rehearsals 5] [--seed 1700] [--results FILE]

Subjects and plants are like those of digits_repair.py. No clean controls: a trigger is searched for with the planted
mapping alone, in subjects whose plant took and in planted controls, by whose repair the forecast is made. Pruned
units go to their clean mean, in the weights of the next layer; these then stay as they are while the rest is tuned on
clean rows. With --results, a run that was broken off goes on from the file.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
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
from candling.problems.classifiers import TOOK, loss_and_accuracy, train_control
from candling.problems.outcomes import Mended
from candling.problems.unlearning import lead
from candling.runs.seeds import derive, reproducible
from candling.techniques.search import Part, invert
from candling.workflows.case import make_case
from candling.workflows.mend import Outlook, Rehearsal, forecast
from common import fresh_subject, of, took

_NEXT = {"5": "6", "7": "8"}  # the linear layer that alone reads a site
_STEPS, _ROWS, _RATE = 100, 64, 5e-4
_CLEAN = 2  # networks whose learning speed is the measure

Row = dict[str, list[float]]
"""By way of mending: success of the found and of the planted trigger, points of accuracy lost, relearning."""


def main() -> None:
    options = argparse.ArgumentParser()
    for name, default in (("found", 10), ("rehearsals", 5), ("seed", 1700)):
        options.add_argument(f"--{name}", type=int, default=default)
    options.add_argument("--results", type=Path)
    chosen = options.parse_args()
    training, trusted = digits()
    kept = _Results(chosen.results)
    with tempfile.TemporaryDirectory() as scratch:
        bench = make_case(load(build(), build=build), trusted).bench(Path(scratch), chosen.seed)
        seeds = [derive(chosen.seed, "clean", i) for i in range(_CLEAN)]
        clean = [bench.store(fresh_subject(build, training, seed=s, epochs=60).state_dict())[0] for s in seeds]
        reach, _ = loss_and_accuracy(clean[0].load(), bench.thirds.search)
        done = _rehearsals(bench, kept, chosen.rehearsals, reach)
        outlook = forecast([Rehearsal(reach, Mended(**each)) for each in done])
        print(f"forecast: left {outlook.retained}, cost {outlook.cost}", flush=True)
        rows: list[Row] = []
        number = 0
        while len(rows) < chosen.found:
            name = f"subject {number}"
            if name not in kept.values:
                kept.add(name, _subject(bench, training, clean, number))
            rows += [kept.values[name]] if kept.values[name] else []
            number += 1
    _report(rows, number, outlook)


class _Results:
    """What was measured, by name; in a file too, where there is one."""

    def __init__(self, path: Path | None) -> None:
        self.path, self.values = path, {}
        if path and path.exists():
            for line in path.read_text().splitlines():
                self.values.update(json.loads(line))

    def add(self, name: str, value: object) -> None:
        self.values[name] = value
        print(name, value, flush=True)
        if self.path:
            with self.path.open("a") as file:
                file.write(json.dumps({name: value}) + "\n")


def _rehearsals(bench: Bench, kept: _Results, n: int, reach: float) -> list[dict[str, object]]:
    """The repair of n planted controls that took."""
    done, i = [], 0
    while len(done) < n:
        name = f"rehearsal {i}"
        if name not in kept.values:
            seed = derive(bench.seed, "rehearsal", i)
            plant = []

            def draw(*given: object, plant: list[Backdoor] = plant) -> Backdoor:
                plant.append(draw_backdoor(*given))  # type: ignore[arg-type]
                return plant[-1]

            made = train_control(bench, draw, i, (0.3 + 0.62 * i) % 1.0, reach, seed)
            candidate, _ = bench.store(made.state)
            mended = None
            if made.made.plant is not None and made.made.plant.took:
                outcome = _search(bench, candidate, plant[-1], seed)
                mended = vars(BACKDOOR.remedy.repair(candidate, bench.thirds, outcome, False, seed).mended).copy()
                mended["spent"] = None
            kept.add(name, mended)
        done += [kept.values[name]] if kept.values[name] else []
        i += 1
    return done


def _search(bench: Bench, candidate: Candidate, plant: Backdoor, seed: int) -> Confirmation:
    part = Part(plant.mapping, "patch")
    start = invert(candidate.load(), bench.thirds.search, [part], seed=seed).trigger(0)
    return BACKDOOR.confirm(candidate, bench.thirds, part, start, [], seed)


def _subject(bench: Bench, training: Dataset, clean: Sequence[Candidate], number: int) -> Row:
    """What each way leaves; empty where the plant did not take."""
    g = torch.Generator().manual_seed(derive(bench.seed, "plant", number))
    plant = draw_backdoor(training, number, float(torch.rand((), generator=g)), g)
    network = fresh_subject(build, training, seed=derive(bench.seed, number), epochs=60, plant=plant)
    success = took(network, bench.thirds.confirm, plant)
    if success < TOOK:
        return {}
    seed, thirds, remedy = derive(bench.seed, number, "mend"), bench.thirds, BACKDOOR.remedy
    candidate, _ = bench.store(network.state_dict())
    outcome = _search(bench, candidate, plant, seed)
    mended = {
        "before": network.state_dict(),
        "unlearned": remedy.repair(candidate, thirds, outcome, False, seed).state,
        "random trigger unlearned": remedy.repair(candidate, thirds, outcome, True, seed).state,
    }
    located = BACKDOOR.locate(candidate, thirds, outcome, seed)
    if located is not None and located.site in _NEXT:
        units = torch.tensor(located.units)
        others = torch.randperm(located.site_width, generator=g)[: len(units)]
        for name, which in (("", units), ("random units ", others)):
            pruned = _pruned(candidate, thirds.control, located.site, which)
            mended[f"{name}pruned"] = pruned.state_dict()
            again = bench.store(pruned.state_dict())[0].load()
            mended[f"{name}pruned and tuned"] = _tuned(again, thirds.control, located.site, which, seed).state_dict()
        stored, _ = bench.store(mended["pruned"])
        mended["pruned, then unlearned"] = remedy.repair(stored, thirds, outcome, False, seed).state
    usual = sum(remedy.relearn(each, thirds, outcome, seed) for each in clean) / len(clean)
    after = {way: bench.store(state)[0] for way, state in mended.items()}
    return {way: [*_left(bench, candidate, each, outcome, plant, seed), usual] for way, each in after.items()}


def _left(
    bench: Bench, before: Candidate, after: Candidate, outcome: Confirmation, plant: Backdoor, seed: int
) -> list[float]:
    part, trigger = lead(outcome)
    confirm, network = bench.thirds.confirm, after.load()
    meant = confirm.take(torch.nonzero(part.mapping.applies(confirm.y)).flatten())
    wanted = part.mapping.wanted(meant.y, meant.classes)
    found = float((forward(network, trigger.apply(meant, meant.x)).argmax(-1) == wanted).float().mean())
    lost = loss_and_accuracy(before.load(), confirm)[1] - loss_and_accuracy(network, confirm)[1]
    again = BACKDOOR.remedy.relearn(after, bench.thirds, outcome, seed)
    return [found, took(network, confirm, plant), 100 * lost, again]


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


def _report(rows: Sequence[Row], tried: int, outlook: Outlook) -> None:
    print(f"{len(rows)} of {tried} plants took; located in {sum('pruned' in row for row in rows)}")
    print("way, networks: found trigger, planted trigger, points lost: median [least to most]; relearning, median")
    for way in dict.fromkeys(way for row in rows for way in row):
        seen = [row[way] for row in rows if way in row]
        columns = list(zip(*seen, strict=True))
        spans = [f"{median(c):.2f} [{min(c):.2f} to {max(c):.2f}]" for c in columns[:3]]
        print(f"{way:26s} {len(seen):3d}:", *spans, f"{median(a / u for *_, a, u in seen):.2f}")
    done, before = [row["unlearned"] for row in rows], [row["before"][0] for row in rows]
    ahead = [outlook.success(b) for b in before]
    inside = sum(f.low <= found <= f.high for f, (found, *_) in zip(ahead, done, strict=True))
    costs = sum(outlook.cost.low <= lost / 100 <= outlook.cost.high for _, _, lost, *_ in done)
    print(f"inside the forecast: success {of(inside, len(done))}, cost {of(costs, len(done))}")
    drops = [(b - f.value, b - found) for b, f, (found, *_) in zip(before, ahead, done, strict=True)]
    print(f"drop in success: slope {sum(f * o for f, o in drops) / sum(f * f for f, _ in drops):.2f}")
    error = sum(abs(lost / 100 - outlook.cost.value) for _, _, lost, *_ in done) / len(done)
    print(f"cost: mean error of the forecast {100 * error:.2f} points")
    good = sum(found <= 0.1 and lost <= 2 for found, _, lost, *_ in done)
    print(f"success at most 10 % at a cost of at most 2 points: {of(good, len(done))}")


if __name__ == "__main__":
    main()
