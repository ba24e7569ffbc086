"""Exam of `locate`: networks whose circuit was written by hand. Which edges compute the behaviour?

Every technique scores the edges of the same network for the same prompts. Only true edges that the prompts can show
count (what they cannot show counts for neither side). The same is asked of the network with the entries of every
weight shuffled, in which nothing computes the behaviour: what is found there is found in the shape of the network.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor

from candling.access.anatomy import MLP, Anatomy, Attention
from candling.access.edges import EdgeRun
from candling.access.graph import graph_of
from candling.access.pairs import Pairs
from candling.evidence.card import Card
from candling.organisms.networks.gates import KnownCircuit, and_gate, or_gate
from candling.organisms.networks.induction import induction
from candling.organisms.networks.programs import fraction, reverse
from candling.runs.seeds import derive, reproducible
from candling.techniques.locate import (
    LogitDifference,
    Scores,
    acdc,
    edge_attribution,
    edge_attribution_ig,
    patch_paths,
    random_scores,
)
from candling.techniques.locate.check import IMPORTANT, MISSED, pearson
from candling.workflows.exams.figures import mean_of, median
from candling.workflows.exams.organism import auroc

EXAM = "edges of circuits written by hand"
PAIRS = 32
_THRESHOLDS = torch.logspace(-3, 1.5, 10).tolist()  # of ACDC, in logits

CIRCUITS: tuple[Callable[..., KnownCircuit], ...] = (
    partial(induction, 4.0),
    partial(induction, 16.0, changed=("first",), broken=True),
    partial(and_gate, noise=0.005),
    partial(or_gate, noise=0.005),
    partial(reverse, noise=0.001),
    partial(fraction, noise=0.001),
)

Locator = Callable[[Anatomy, Pairs, int], Tensor]
"""(network, prompts, seed) → [senders, receivers], NaN where there is no edge"""


def _chance(anatomy: Anatomy, pairs: Pairs, seed: int) -> Tensor:
    return random_scores(patch_paths(anatomy, pairs, metric=_metric(pairs)), seed=seed).values


def _thresholds(anatomy: Anatomy, pairs: Pairs, seed: int) -> Tensor:
    """An edge scores the highest threshold at which it is kept."""
    best = torch.zeros(graph_of(anatomy).edges.shape, dtype=torch.float64)
    for tau in _THRESHOLDS:
        best[acdc(anatomy, pairs, tau, metric=_metric(pairs)).kept] = tau
    return best


def _by(method: Callable[..., Scores]) -> Locator:
    return lambda anatomy, pairs, seed: method(anatomy, pairs, metric=_metric(pairs)).values


LOCATORS: Mapping[str, Locator] = {
    "random": _chance,
    "path patching": _by(patch_paths),
    "ACDC": _thresholds,
    "EAP": _by(edge_attribution),
    "EAP by secants": _by(partial(edge_attribution, secants=True)),
    "EAP-IG": _by(edge_attribution_ig),
}


@dataclass(frozen=True)
class Told:
    """What one technique gave on one network."""

    auroc: float
    pearson: float
    missed: float
    """Share of the edges that matter that it scores as nothing."""
    in_shuffled: float
    seconds: float


def sit(number: int, seed: int) -> dict[str, Told]:
    """Every technique on one network: it is given the weights and the prompts, nothing else."""
    with reproducible(derive(seed, "circuit", number)) as g:
        circuit = CIRCUITS[number % len(CIRCUITS)](seed=derive(seed, number) % 2**31)
        pairs = circuit.pairs(PAIRS, g)
        idle = shuffled(circuit.anatomy, g)
        shown = circuit.identifiable(pairs)
        there = graph_of(circuit.anatomy).edges
        false = there & ~circuit.truth
        exact = _exact(circuit.anatomy, pairs)
        told = {}
        for name, locate in LOCATORS.items():
            start = time.process_time()
            scores = locate(circuit.anatomy, pairs, number)
            spent = time.process_time() - start
            blank = locate(idle, pairs, number).abs()
            own, true = scores[there].abs(), exact.abs()
            matters = true > IMPORTANT * true.max()
            signed = name not in ("ACDC", "random")
            told[name] = Told(
                auroc=auroc(scores.abs()[shown], scores.abs()[false]),
                pearson=pearson(exact, scores[there]) if signed else pearson(true, own),
                missed=float((matters & (own < MISSED * own.max())).sum() / matters.sum()),
                in_shuffled=auroc(blank[shown], blank[false]),
                seconds=spent,
            )
    return told


def mark(sittings: list[dict[str, Told]]) -> list[Card]:
    """A card for each technique."""
    cards = []
    for name in LOCATORS:
        told = [sitting[name] for sitting in sittings]
        figures = [
            mean_of("AUROC", [t.auroc for t in told]),
            mean_of("correlation", [t.pearson for t in told]),
            mean_of("missed", [t.missed for t in told]),
            mean_of("AUROC, shuffled", [t.in_shuffled for t in told]),
            mean_of(
                "least correlation", [min((t.pearson for t in told if not math.isnan(t.pearson)), default=math.nan)]
            ),
        ]
        spent = median([t.seconds for t in told])
        cards.append(Card(technique=name, question="locate", exam=EXAM, figures=figures, seconds=spent))
    return cards


def shuffled(anatomy: Anatomy, generator: torch.Generator) -> Anatomy:
    """The same shapes and the same numbers in every map of the blocks, in another order."""

    blocks = [
        replace(
            block,
            attention=_mixed(block.attention, generator),
            mlp=None if block.mlp is None else _mixed(block.mlp, generator),
        )
        for block in anatomy.blocks
    ]
    return replace(anatomy, blocks=tuple(blocks))


P = TypeVar("P", Attention, MLP)


def _mixed(part: P, generator: torch.Generator) -> P:
    changed: dict[str, Any] = {}
    for name, value in vars(part).items():
        if isinstance(value, Tensor):
            changed[name] = value.flatten()[torch.randperm(value.numel(), generator=generator)].view_as(value)
    return replace(part, **changed)


def _metric(pairs: Pairs) -> LogitDifference:
    return LogitDifference(pairs.answer, pairs.wrong)


@torch.no_grad()
def _exact(anatomy: Anatomy, pairs: Pairs) -> Tensor:
    """[edges] what cutting each does, by a pass of the whole network, in the order of `graph.edges`."""
    run, metric = EdgeRun(anatomy, pairs), _metric(pairs)
    places = torch.nonzero(run.graph.edges)
    cut = run.graph.edges.repeat(len(places), 1, 1)
    cut[torch.arange(len(places)), places[:, 0], places[:, 1]] = False
    logits = (each for some in cut.split(64) for each in run(some))
    whole = metric(run(run.graph.edges)).double().mean()
    return torch.stack([metric(each).double().mean() for each in logits]) - whole
