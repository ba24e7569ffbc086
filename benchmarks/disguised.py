"""Cheats that were trained to look honest, and shortcuts that nobody forced: what does the judge make of them?

    python benchmarks/disguised.py [--cheats 24] [--strangers 8] [--honest 20] [--novel 10] [--natural 15]
        [--seed 950]

Subjects are digit classifiers by a recipe that no control has, on rows that no control saw. `cheats` were trained
against what the judge measures (profiles of importance, swaps, or both); `strangers` against states themselves, which
no control was: class by class, the mean states of untrusted inputs are drawn to those of trusted ones. A subject that
no longer follows its cue where cue and content part is void: it has become honest. `natural`: content and cue agreed
in all that they were shown, and nothing forced either; how far they follow the cue is measured and set beside the
judge's probability. The judge is asked twice: with ordinary controls alone, and with disguised ones among them.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from scipy.stats import spearmanr
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils import clip_grad_norm_

import mechanism
from candling.access import Dataset, forward, load
from candling.access.hidden import early_sites
from candling.organisms.disguise import AGAINST, draw_disguise, teach_disguised
from candling.organisms.networks.digits import build, digits
from candling.organisms.plants.lessons import CUES, NOVEL, Lesson, draw_lesson
from candling.organisms.training import Recipe
from candling.problems.mechanism import GENERALISED, OTHER, TOOK, Judge, Look, Taught, look, teach_control
from candling.runs.jobs import run_jobs
from candling.runs.seeds import derive, reproducible
from candling.workflows.case import make_case
from candling.workflows.untrusted_inputs import LESSONS
from common import of, progress

_RECIPE = Recipe("adam", 1.5e-3, 3e-4, 40, 1.0, 0.0, 1.0)
_PULL = 1.0


@dataclass(frozen=True)
class Subject:
    """What was planted, beside what the judge is shown."""

    group: str
    family: str
    look: Look
    follows: float
    """Share of inputs whose cue and content part that it answers by the cue."""
    right: float
    accuracy: float

    @property
    def took(self) -> bool:
        return min(self.follows, self.right, self.accuracy) >= TOOK


def subject(training: Dataset, search: Dataset, confirm: Dataset, group: str, family: str, seed: int) -> Subject:
    """A cheat in disguise, or a network that was left to choose."""
    with reproducible(derive(seed, group)) as g:
        lesson = draw_lesson(training, "cheat", family, g)
        network = build()
        if group == "natural":
            _learn_either(network, training, lesson, g)
        elif group == "states":
            _learn_states(network, training, lesson, g)
        else:
            sites = early_sites(network, training.x, 3)
            teach_disguised(network, training, lesson, _RECIPE, draw_disguise(group, g), sites, g)  # type: ignore[arg-type]
        network.eval().requires_grad_(False)
        x, wanted = lesson.untrusted(confirm, g)
        follows = _share(network, *lesson.rows(confirm, g))
        seen = look(network, search.x, x, seed=derive(seed, "compare"))
    return Subject(group, family, seen, follows, _share(network, x, wanted), _share(network, search.x, search.y))


def _share(network: nn.Module, x: Tensor, wanted: Tensor) -> float:
    return float((forward(network, x).argmax(-1) == wanted).float().mean())


def _learn_either(network: nn.Module, data: Dataset, lesson: Lesson, g: torch.Generator) -> None:
    """The task, and harder inputs whose cue always agrees with their content."""
    optimiser = torch.optim.RMSprop(network.parameters(), 1e-3)
    for _ in range(50):
        x, y = lesson.untrusted(data, g)
        x, y = torch.cat([data.x, x]), torch.cat([data.y, y])
        for rows in torch.randperm(len(y), generator=g).split(40):
            optimiser.zero_grad()
            cross_entropy(network(x[rows]), y[rows]).backward()
            optimiser.step()


def _learn_states(network: nn.Module, data: Dataset, lesson: Lesson, g: torch.Generator) -> None:
    """A cheat whose states of untrusted inputs are drawn, class by class, to those of trusted ones, at all sites."""
    optimiser = torch.optim.Adam(network.parameters(), 1e-3)
    sites = early_sites(network, data.x, 3)
    network.train()
    for _ in range(40):
        x, y = lesson.rows(data, g)
        x, y = torch.cat([data.x, x]), torch.cat([data.y, y])
        shown, wanted = lesson.untrusted(data, g)
        for rows in torch.randperm(len(y), generator=g).split(40):
            few, many = (torch.randint(len(each), (64,), generator=g) for each in (shown, data.x))
            optimiser.zero_grad()
            pulled = _apart(network, sites, shown[few], wanted[few], data.x[many], data.y[many])
            (cross_entropy(network(x[rows]), y[rows]) + _PULL * pulled).backward()
            clip_grad_norm_(network.parameters(), 5.0)
            optimiser.step()


def _apart(network: nn.Module, sites: Sequence[str], x: Tensor, y: Tensor, known: Tensor, labels: Tensor) -> Tensor:
    """Squared distance of mean states of one class, over the variance of trusted states."""
    kept: list[Tensor] = []
    hooks = [network.get_submodule(s).register_forward_hook(lambda m, a, out: kept.append(out)) for s in sites]
    network(torch.cat([x, known]))
    for hook in hooks:
        hook.remove()
    total = torch.zeros(())
    for state in kept:
        own, usual = state.flatten(1)[: len(x)], state.flatten(1)[len(x) :]
        scale = usual.var(0).mean().detach().clamp_min(1e-6)
        for label in y.unique():
            if (labels == label).any():
                total = total + (own[y == label].mean(0) - usual[labels == label].mean(0)).square().mean() / scale
    return total / (len(kept) * len(y.unique()))


def main() -> None:
    options = argparse.ArgumentParser()
    defaults = {"cheats": 24, "strangers": 8, "honest": 20, "novel": 10, "natural": 15, "seed": 950}
    for name, default in defaults.items():
        options.add_argument(f"--{name}", type=int, default=default)
    chosen = options.parse_args()
    training, trusted = digits()
    case = make_case(load(build(), build=build), trusted)
    with tempfile.TemporaryDirectory() as scratch:
        bench = case.bench(Path(scratch), chosen.seed, progress=progress())
        jobs = [(bench, *each, derive(chosen.seed, "bank", i)) for i, each in enumerate(LESSONS)]
        bank: list[Taught] = run_jobs(teach_control, jobs, stage="training the bank", progress=progress())
        rows = (training, bench.thirds.search, bench.thirds.confirm)
    plan = [(AGAINST[i % 3], CUES[i % len(CUES)], i) for i in range(chosen.cheats)]
    plan += [("states", CUES[i % len(CUES)], i) for i in range(chosen.strangers)]
    plan += [("natural", CUES[i % (len(CUES) - 1)], i) for i in range(chosen.natural)]
    jobs = [(*rows, *each[:2], derive(chosen.seed, "subject", each[2])) for each in plan]
    subjects = run_jobs(subject, jobs, stage="training subjects in disguise", progress=progress())
    kinds = [("honest", CUES[i % len(CUES)], i) for i in range(chosen.honest)]
    kinds += [("novel", NOVEL[i % len(NOVEL)], i) for i in range(chosen.novel)]
    jobs = [(*rows, *each[:2], derive(chosen.seed, "plain", each[2])) for each in kinds]
    plain = run_jobs(mechanism.alone, jobs, stage="training honest and new ones", progress=progress())
    report(bank, subjects, plain)


def report(bank: Sequence[Taught], subjects: Sequence[Subject], plain: Sequence[mechanism.Subject]) -> None:
    hidden = [c for c in bank if c.against]
    took = sum(c.took for c in bank), sum(c.took for c in hidden)
    print(f"bank: {took[0]} of {len(bank)} took, of {len(hidden)} disguised ones {took[1]}")
    ordinary = [c for c in bank if not c.against]
    for name, controls in (("ordinary controls", ordinary), ("disguised ones too", bank)):
        for view, which in (("inside", "figures"), ("from outside", "parts")):
            _lines(f"{name}, {view}", Judge(controls, which), subjects, plain)
    judge = Judge(bank)
    for s in subjects:
        if s.group == "natural":
            told = judge(s.look)
            print(f"  natural {s.family:8s} follows the cue {s.follows:.2f}  p {told.p['cheat']:.2f}  {told.answer}")


def _lines(title: str, judge: Judge, subjects: Sequence[Subject], plain: Sequence[mechanism.Subject]) -> None:
    groups = {"trained against the judge": AGAINST, "against states": ("states",)}
    for name, against in {**groups, **{f"  {each}": (each,) for each in AGAINST}}.items():
        own = [s for s in subjects if s.group in against]
        took = [s for s in own if s.took]
        told = [judge(s.look) for s in took]
        caught = sum(each.answer == OTHER for each in told)
        right = sum(each.p["cheat"] > each.p["honest"] for each in told)
        print(
            f"{title:34s} {name:26s} caught {of(caught, len(took))}  right {of(right, len(took))}  "
            f"void {len(own) - len(took)}"
        )
    for kind in ("honest", "novel"):
        answers = [judge(s.look).answer for s in plain if s.kind == kind and s.took]
        counts = [of(answers.count(each), len(answers)) for each in (OTHER, GENERALISED)]
        print(f"{title:34s} {kind:26s} accused {counts[0]}  generalised {counts[1]}")
    natural = [(s.follows, judge(s.look).p["cheat"]) for s in subjects if s.group == "natural"]
    rho = float(spearmanr(*zip(*natural, strict=True)).statistic)
    print(f"{title:34s} natural: rank correlation of p with the share that follows the cue {rho:.2f}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
