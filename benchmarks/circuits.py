"""Which techniques find circuits that are known? Networks written by hand, compiled programs, a trained transformer.

Every technique scores the same prompts; the truth joins only here. Parts are edges, or nodes: the outputs of heads
and MLPs, and queries, keys and values. `AUROC` tells true parts that the prompts can show from parts outside the
circuit (what they cannot show counts for neither side); `Pearson` compares with exact patching of the same parts,
absolute values where a technique has no sign (of AtP*, pair by pair, as its authors do); `missed` is the share of
parts with an exact effect above 5 % of the largest that are scored below 0.5 % of the largest score. Controls: random
scores, and EAP-IG read off the same network with the entries of every weight shuffled. Mean over fresh seeds, the
worst seed in brackets.

    python benchmarks/circuits.py [seeds] [pairs] [words that the network's name must hold]
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from candling.access.parts import heads
from candling.techniques.locate.acdc import acdc
from candling.techniques.locate.attribution_patching import attribution_patching, attribution_patching_star
from candling.techniques.locate.check import IMPORTANT, MISSED, pearson
from candling.techniques.locate.contract import Scores
from candling.techniques.locate.edge_attribution import edge_attribution, edge_attribution_ig
from candling.techniques.locate.patching import patch
from candling.techniques.locate.path_patching import patch_paths
from candling.techniques.locate.random_scores import random_scores
from candling.workflows.exams.organism import auroc
from circuit_tasks import ZERO, Task, cases

FIRST_SEED = 300
THRESHOLDS = torch.logspace(-3, 1.5, 10).tolist()
"""Of ACDC, in logits."""


@dataclass(frozen=True)
class Technique:
    name: str
    score: Callable[[Task], Tensor]
    """→ [edges] or [nodes], in the order of the task's"""
    measured: Callable[[Task], Tensor] = lambda task: task.exact_edges
    """Exact effects of the same parts."""
    zero: bool = False
    """Does it set edges to zero, so that every true edge can be found? Else the other prompt's values are put in."""
    signed: bool = True
    nodes: bool = False
    denoises: bool = True
    """Can it put clean values into the corrupt run?"""


def chance(task: Task) -> Tensor:
    like = patch_paths(task.anatomy, task.pairs, metric=task.metric, denoising=task.denoising)
    return random_scores(like, seed=task.seed).values[task.graph.edges]


def chance_nodes(task: Task) -> Tensor:
    found = attribution_patching(task.anatomy, task.pairs, metric=task.metric, nodes=_kinds(task))
    return _in_order(task, {kind: random_scores(own, seed=task.seed) for kind, own in found.items()})


def paths(task: Task, *, direct: bool = False) -> Tensor:
    found = patch_paths(task.anatomy, task.pairs, metric=task.metric, denoising=task.denoising, direct=direct)
    return found.values[task.graph.edges]


def thresholds(task: Task, *, source: Tensor | None) -> Tensor:
    """ACDC at every threshold: an edge scores the highest at which it is kept."""
    best = torch.zeros(task.graph.edges.shape, dtype=torch.float64)
    for tau in THRESHOLDS:
        found = acdc(task.anatomy, task.pairs, tau, metric=task.metric, denoising=task.denoising, source=source)
        best[found.kept] = tau
    return best[task.graph.edges]


def by_edges(task: Task, *, method: Callable[..., Scores]) -> Tensor:
    return method(task.anatomy, task.pairs, metric=task.metric).values[task.graph.edges]


def from_shuffled(task: Task) -> Tensor:
    generator = torch.Generator().manual_seed(task.seed)
    return edge_attribution_ig(shuffled(task.anatomy, generator), task.pairs, metric=task.metric).values[
        task.graph.edges
    ]


def shuffled(part: Any, generator: torch.Generator) -> Any:
    """The same network with the entries of each weight in another order."""
    if isinstance(part, Tensor):
        return part.flatten()[torch.randperm(part.numel(), generator=generator)].view_as(part)
    if isinstance(part, tuple):
        return tuple(shuffled(each, generator) for each in part)
    if is_dataclass(part) and not isinstance(part, type):
        return replace(part, **{each.name: shuffled(getattr(part, each.name), generator) for each in fields(part)})
    return part


def attributed(task: Task, *, method: Callable[..., Mapping[str, Scores]]) -> Tensor:
    return _in_order(task, method(task.anatomy, task.pairs, metric=task.metric, nodes=_kinds(task)))


def patched(task: Task) -> Tensor:
    """Heads' outputs; NaN for the other nodes."""
    found = patch(
        task.anatomy, task.pairs, metric=task.metric, part=heads, by_position=False, denoising=task.denoising
    )
    return _in_order(task, {heads.name: found})


def _kinds(task: Task) -> list[str]:
    return list(dict.fromkeys(kind for kind, _, _ in task.nodes))


def _in_order(task: Task, found: Mapping[str, Scores]) -> Tensor:
    def one(kind: str, layer: int, index: int) -> float:
        if kind not in found:
            return math.nan
        own = found[kind].values[layer]
        return float(own[index] if own.ndim else own)

    return torch.tensor([one(*node) for node in task.nodes], dtype=torch.float64)


_at_nodes = partial(Technique, measured=lambda task: task.exact_nodes, nodes=True, denoises=False)

TECHNIQUES = (
    Technique("random", chance, signed=False),
    Technique("EAP-IG, weights shuffled", from_shuffled, denoises=False),
    Technique("path patching", paths),
    Technique("path patching, direct", partial(paths, direct=True)),
    Technique("ACDC, corrupt values", partial(thresholds, source=None), signed=False),
    Technique(
        "ACDC, zero",
        partial(thresholds, source=ZERO),
        measured=lambda task: task.exact_zero,
        zero=True,
        signed=False,
        denoises=False,
    ),
    Technique("EAP", partial(by_edges, method=edge_attribution), denoises=False),
    Technique("EAP, secants", partial(by_edges, method=partial(edge_attribution, secants=True)), denoises=False),
    *(
        Technique(
            f"EAP-IG, {steps} steps",
            partial(by_edges, method=partial(edge_attribution_ig, steps=steps)),
            denoises=False,
        )
        for steps in (5, 20, 100)
    ),
    _at_nodes("nodes: random", chance_nodes, signed=False),
    _at_nodes("heads: activation patching", patched, denoises=True),
    _at_nodes("nodes: AtP", partial(attributed, method=attribution_patching)),
    _at_nodes("nodes: AtP, softmax fixed", partial(attributed, method=partial(attribution_patching, qk_fix=True))),
    _at_nodes("nodes: AtP, secants", partial(attributed, method=partial(attribution_patching, secants=True))),
    _at_nodes(
        "nodes: AtP*",
        partial(attributed, method=attribution_patching_star),
        measured=lambda task: task.exact_magnitudes,
        signed=False,
    ),
)


@dataclass(frozen=True)
class Grade:
    auroc: float
    """NaN where no truth is known."""
    pearson: float
    missed: float
    """NaN where no part matters."""


def grade(technique: Technique, task: Task) -> Grade:
    scores, measured = technique.score(task), technique.measured(task)
    scored = ~scores.isnan()
    own, true = scores[scored].abs(), measured[scored].abs()
    matters = true > IMPORTANT * true.max()
    passed_over = matters & (own < MISSED * own.max())
    return Grade(
        auroc=_against_truth(technique, task, scores.abs()),
        pearson=pearson(*((measured[scored], scores[scored]) if technique.signed else (true, own))),
        missed=float(passed_over.sum() / matters.sum()) if matters.any() else math.nan,
    )


def _against_truth(technique: Technique, task: Task, scores: Tensor) -> float:
    shown = task.ablatable if technique.zero else task.shown
    if shown is None or task.true is None:
        return math.nan
    parts = torch.stack(list(task.nodes.values())) if technique.nodes else task.edges
    inside, outside = (parts & shown).any((1, 2)), ~(parts & task.true).any((1, 2))
    there = ~scores.isnan()
    return auroc(scores[inside & there], scores[outside & there])


def main(seeds: int, n: int, words: str = "") -> None:
    torch.set_num_threads(1)
    for name, make in cases():
        if words not in name:
            continue
        print(name)
        tasks = [make(n, FIRST_SEED + seed) for seed in range(seeds)]
        if (true := tasks[0].true) is not None and tasks[0].shown is not None:
            counts = (tasks[0].graph.edges, true, tasks[0].shown)
            print("  {} edges, {} true, {} of them identifiable".format(*(int(mask.sum()) for mask in counts)))
        print(f"  {'technique':32}{'AUROC':>18}{'Pearson':>18}{'missed':>18}")
        for technique in TECHNIQUES:
            if tasks[0].denoising and not technique.denoises:
                continue
            grades = [grade(technique, task) for task in tasks]
            columns = (
                _shown([each.auroc for each in grades], min),
                _shown([each.pearson for each in grades], min),
                _shown([each.missed for each in grades], max),
            )
            print(f"  {technique.name:32}" + "".join(f"{column:>18}" for column in columns), flush=True)


def _shown(values: list[float], worst: Callable[[list[float]], float]) -> str:
    there = [value for value in values if not math.isnan(value)]
    if not there:
        return "-"
    mean = sum(there) / len(there)
    return f"{mean:.3f}" if max(there) - min(there) < 5e-4 else f"{mean:.3f} ({worst(there):.3f})"


if __name__ == "__main__":
    seeds, n, *words = (*sys.argv[1:], *("3", "8")[len(sys.argv) - 1 :])
    main(int(seeds), int(n), " ".join(words))
