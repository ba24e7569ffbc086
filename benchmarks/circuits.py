"""Which techniques find circuits that are known? Networks written by hand, compiled programs, a trained transformer.

Every technique scores the same prompts; the truth joins only here. Parts are edges, or nodes: the outputs of heads
and MLPs, and queries, keys and values. `AUROC` tells true parts that the prompts can show from parts outside the
circuit (what they cannot show counts for neither side); `Pearson` compares with exact patching of the same parts,
absolute values where a technique has no sign; `missed` is the share of parts with an exact effect above 5 % of the
largest that are scored below 0.5 % of the largest score. Mean over fresh seeds, the worst seed in brackets.

    python benchmarks/circuits.py [seeds] [pairs]
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial

import torch
from torch import Tensor

from candling.access.anatomy import Anatomy
from candling.access.dissect import dissect
from candling.access.edges import EdgeRun
from candling.access.graph import Graph, graph_of
from candling.access.pairs import Pairs
from candling.access.parts import heads
from candling.organisms.networks.gates import KnownCircuit, and_gate, or_gate
from candling.organisms.networks.induction import (
    induction,
    repeat_accuracy,
    repeat_pairs,
    repeated,
    train_induction,
)
from candling.organisms.networks.programs import fraction, reverse
from candling.techniques.locate.acdc import acdc
from candling.techniques.locate.attribution_patching import attribution_patching, attribution_patching_star
from candling.techniques.locate.check import IMPORTANT, MISSED, pearson
from candling.techniques.locate.contract import LogitDifference, Metric, Scores
from candling.techniques.locate.edge_attribution import edge_attribution, edge_attribution_ig
from candling.techniques.locate.patching import patch
from candling.techniques.locate.path_patching import patch_paths
from candling.techniques.locate.random_scores import random_scores

SHARPNESS = (2.0, 4.0, 8.0, 16.0, 40.0)
THRESHOLDS = torch.logspace(-3, 1.5, 19).tolist()
"""Of ACDC, in logits."""

ZERO = torch.zeros(1, 1, 1, 1)


@dataclass(frozen=True, eq=False)
class Task:
    """One network with pairs, and what is known of it. Masks: bool [senders, receivers]."""

    anatomy: Anatomy
    pairs: Pairs
    seed: int
    denoising: bool = False
    true: Tensor | None = None
    shown: Tensor | None = None
    """True edges that the pairs can show in this direction."""
    ablatable: Tensor | None = None
    """Those that zeros in their place can show."""

    @property
    def metric(self) -> Metric:
        return LogitDifference(self.pairs.answer, self.pairs.wrong)

    @cached_property
    def graph(self) -> Graph:
        return graph_of(self.anatomy)

    @cached_property
    def edges(self) -> Tensor:
        """bool [k, senders, receivers]: each edge alone."""
        places = torch.nonzero(self.graph.edges)
        found = torch.zeros(len(places), *self.graph.edges.shape, dtype=torch.bool)
        found[torch.arange(len(places)), places[:, 0], places[:, 1]] = True
        return found

    @cached_property
    def nodes(self) -> dict[tuple[str, int, int], Tensor]:
        """(kind, layer, index) → the edges that a patched node changes: those that leave it, or that enter it."""
        whole, found = self.graph.edges, {}
        for place, node in enumerate(self.graph.senders[1:], 1):
            found["mlp.out" if node.kind == "mlp" else "attn.head_out", node.layer, node.index] = _only(whole, place)
        for place, node in enumerate(self.graph.receivers):
            if node.kind == "head":
                found[f"attn.{node.slot}", node.layer, node.index] = _only(whole.T, place).T
        return found

    @cached_property
    def exact_edges(self) -> Tensor:
        return exact(self, self.edges)

    @cached_property
    def exact_zero(self) -> Tensor:
        return exact(self, self.edges, ZERO)

    @cached_property
    def exact_nodes(self) -> Tensor:
        return exact(self, torch.stack(list(self.nodes.values())))


def _only(edges: Tensor, row: int) -> Tensor:
    found = torch.zeros_like(edges)
    found[row] = edges[row]
    return found


@torch.no_grad()
def exact(task: Task, parts: Tensor, source: Tensor | None = None) -> Tensor:
    """bool [k, senders, receivers] → [k]: what cutting these edges does, each by a pass of the whole network."""
    run = EdgeRun(task.anatomy, task.pairs, denoising=task.denoising, source=source)
    before = task.metric(run(run.graph.edges)).double().mean()
    logits = (each for some in parts.split(64) for each in run(run.graph.edges & ~some))
    return torch.stack([task.metric(each).double().mean() for each in logits]) - before


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
    *(
        Technique(
            f"EAP-IG, {steps} steps",
            partial(by_edges, method=partial(edge_attribution_ig, steps=steps)),
            denoises=False,
        )
        for steps in (5, 20)
    ),
    _at_nodes("nodes: random", chance_nodes, signed=False),
    _at_nodes("heads: activation patching", patched, denoises=True),
    _at_nodes("nodes: AtP", partial(attributed, method=attribution_patching)),
    _at_nodes("nodes: AtP, softmax fixed", partial(attributed, method=partial(attribution_patching, qk_fix=True))),
    _at_nodes("nodes: AtP*", partial(attributed, method=attribution_patching_star), signed=False),
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


def auroc(positive: Tensor, negative: Tensor) -> float:
    """How often a true part is above a false one; ties count half."""
    if not len(positive) or not len(negative):
        return math.nan
    above = positive[:, None] - negative
    return float((above > 0).double().mean() + 0.5 * (above == 0).double().mean())


def known(make: Callable[..., KnownCircuit], n: int, seed: int, *, denoising: bool = False) -> Task:
    net = make(seed=seed)
    pairs = net.pairs(n, torch.Generator().manual_seed(seed))
    return Task(
        anatomy=net.anatomy,
        pairs=pairs,
        seed=seed,
        denoising=denoising,
        true=net.truth,
        shown=net.identifiable(pairs, denoising=denoising),
        ablatable=net.ablatable(denoising=denoising),
    )


def trained(n: int, seed: int) -> Task:
    decoder = train_induction(seed)
    accuracy = repeat_accuracy(decoder, *repeated(500, torch.Generator().manual_seed(seed + 1)))
    print(f"  trained, seed {seed}: accuracy on repeated tokens {accuracy:.3f}")
    return Task(dissect(decoder).anatomy, repeat_pairs(n, torch.Generator().manual_seed(seed + 2)), seed)


def cases() -> Iterator[tuple[str, Callable[[int, int], Task]]]:
    corrupt = {
        "corrupt A": {"changed": ("first",), "broken": True},
        "corrupt A and B": {"changed": ("first", "answer"), "broken": True},
        "corrupt prompt without answer": {"broken": True},
        "corrupt prompt with another answer": {},
    }
    for kind, settings in corrupt.items():
        for sharpness in SHARPNESS:
            name = f"induction by hand, sharpness {sharpness:g}, {kind}"
            yield name, partial(known, partial(induction, sharpness, **settings))
    for name, gate in (("AND", and_gate), ("OR", or_gate)):
        for denoising in (False, True):
            way = "denoising" if denoising else "noising"
            yield f"{name} gate, {way}", partial(known, partial(gate, noise=0.005), denoising=denoising)
    for noise in (0.0, 0.001):
        yield f"reverse, noise {noise:g}", partial(known, partial(reverse, noise=noise))
        yield f"fraction so far, noise {noise:g}", partial(known, partial(fraction, noise=noise))
    yield "trained induction", trained


def main(seeds: int, n: int) -> None:
    torch.set_num_threads(1)
    for name, make in cases():
        print(name)
        tasks = [make(n, 100 + seed) for seed in range(seeds)]
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
    given = [int(each) for each in sys.argv[1:]]
    main(*given, *(3, 64)[len(given) :])
