"""Is an attribution right? Compared with real patching on a sample of its parts.

Question: how far may these scores be trusted, what do they miss, and what could no method have found?
Source: AtP* (Kramár et al., 2403.00745, section 2, false negatives of attribution); the sample and the two limits are
    our own: an important part has an exact effect above 5 % of the largest, a missed one a score below 0.5 %.
Inputs: scores with any axes; the network and the pairs that they were made from; a metric, logits [n, V] → [n]; a
    function that measures parts exactly, for edges unless given. Effects in units of the metric.
Cost: n forward passes for each part of the sample, and 4n (edges), for n pairs.
Known failures: a sample that holds the best-scored parts flatters the correlation; a missed part outside the sample
    stays unseen; parts that stand in for each other (OR) have no exact effect alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from candling.access.anatomy import Anatomy
from candling.access.edges import EdgeRun, written
from candling.access.graph import graph_of
from candling.access.pairs import Pairs
from candling.evidence.measurement import Cost
from candling.runs.memory import Memory
from candling.techniques.locate.contract import Metric, Scores

IMPORTANT, MISSED = 0.05, 0.005
"""Shares of the largest exact effect and of the largest score."""

_TOGETHER = 64  # masks for which logits are held at a time

Measure = Callable[[Anatomy, Pairs, Metric, Tensor], Tensor]
"""Parts as places in the scores int64 [k, axes] → the exact effect of each alone [k]"""


@dataclass(frozen=True)
class Miss:
    """A part that matters and that the attribution passes over."""

    part: tuple[str, ...]
    exact: float
    scored: float


@dataclass(frozen=True, eq=False)
class Check:
    """An attribution beside exact patching."""

    technique: str
    at: Tensor
    """int64 [k, axes], the sample"""
    exact: Tensor
    """[k]"""
    scored: Tensor
    """[k]"""
    parts: int
    """How many there are in all."""
    pearson: float
    """NaN where either side does not vary."""
    important: int
    """Parts of the sample with an exact effect above 5 % of the largest."""
    missed: tuple[Miss, ...]
    """Those of them scored below 0.5 % of the largest score, the worst first."""
    unidentified: tuple[str, ...]
    """Senders that write the same on clean and corrupt prompts: no method can find them with these pairs."""
    cost: Cost


@torch.no_grad()
def check(
    scores: Scores,
    anatomy: Anatomy,
    pairs: Pairs,
    metric: Metric,
    *,
    measure: Measure | None = None,
    parts: int = 300,
    seed: int = 0,
) -> Check:
    """Compare `scores` with exact effects on `parts` parts: the best-scored half, and others drawn at random.

    measure: `edge_effects` unless given, for scores over senders × receivers made by noising.
    """
    there = torch.nonzero(scores.there)
    at = _sample(scores.values, there, parts, seed)
    scored = scores.values[tuple(at.T)].double()
    exact = (measure or edge_effects)(anatomy, pairs, metric, at).double().cpu()
    most, top = float(exact.abs().max()), float(scored.abs().max())
    matters = exact.abs() > IMPORTANT * most
    passed_over = torch.nonzero(matters & (scored.abs() < MISSED * top)).flatten()
    worst = passed_over[exact[passed_over].abs().argsort(descending=True, stable=True)]
    return Check(
        technique=scores.technique,
        at=at,
        exact=exact,
        scored=scored,
        parts=len(there),
        pearson=pearson(exact, scored),
        important=int(matters.sum()),
        missed=tuple(Miss(_labels(scores, at[i]), float(exact[i]), float(scored[i])) for i in worst.tolist()),
        unidentified=unidentified(anatomy, pairs),
        cost=Cost(forward=len(pairs) * (len(at) + 4), backward=0),
    )


def edge_effects(anatomy: Anatomy, pairs: Pairs, metric: Metric, at: Tensor) -> Tensor:
    """What cutting one edge does to the metric, averaged over pairs: places [k, 2], senders × receivers → [k]"""
    run = EdgeRun(anatomy, pairs)
    whole = run.graph.edges.to(at.device)
    clean = metric(run(whole)).mean()
    effects = []
    for part in at.split(_TOGETHER):
        masks = whole.repeat(len(part), 1, 1)
        masks[torch.arange(len(part)), part[:, 0], part[:, 1]] = False
        effects += [metric(logits).mean() - clean for logits in run(masks)]
    return torch.stack(effects)


def remembered(memory: Memory, name: str) -> Measure:
    """`edge_effects`, some at a time, each lot remembered. One more pass of the prompts a lot."""

    def measure(anatomy: Anatomy, pairs: Pairs, metric: Metric, at: Tensor) -> Tensor:
        found: list[Tensor] = []
        for lot in at.split(_TOGETHER):
            memory.tell(name, sum(map(len, found)), len(at))
            found.append(memory(name, lot, Tensor, partial(edge_effects, anatomy, pairs, metric, lot)))
        memory.tell(name, len(at), len(at))
        return torch.cat(found)

    return measure


def unidentified(anatomy: Anatomy, pairs: Pairs) -> tuple[str, ...]:
    """Senders whose output is the same, to rounding, at every position of every pair."""
    ends = int(pairs.last.max()) + 1
    clean, corrupt = (written(anatomy, tokens[:, :ends]) for tokens in (pairs.clean, pairs.corrupt))
    inside = (torch.arange(ends, device=pairs.last.device) <= pairs.last[:, None])[None, :, :, None]
    difference = ((clean - corrupt) * inside).abs().flatten(1).amax(1)
    size = (clean * inside).abs().flatten(1).amax(1)
    same = difference <= 1e-6 * size.clamp(min=1e-12)
    senders = graph_of(anatomy).senders
    return tuple(str(sender) for sender, alike in zip(senders, same.tolist(), strict=True) if alike)


def pearson(a: Tensor, b: Tensor) -> float:
    """Correlation of two [k]; NaN where one does not vary."""
    if len(a) < 2:
        return math.nan
    a, b = a.double() - a.double().mean(), b.double() - b.double().mean()
    size = float(a.norm() * b.norm())
    return float(a @ b) / size if size > 0 else math.nan


def _sample(values: Tensor, there: Tensor, parts: int, seed: int) -> Tensor:
    """Places [k, axes], in the order of the scores."""
    if len(there) <= parts:
        return there
    order = values[tuple(there.T)].abs().argsort(descending=True, stable=True)
    best, rest = order[: parts // 2], order[parts // 2 :]
    drawn = torch.randperm(len(rest), generator=torch.Generator().manual_seed(seed))[: parts - len(best)]
    return there[torch.cat([best, rest[drawn]]).sort().values]


def _labels(scores: Scores, place: Tensor) -> tuple[str, ...]:
    return tuple(axis.labels[i] for axis, i in zip(scores.axes, place.tolist(), strict=True))
