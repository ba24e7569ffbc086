"""A circuit: the few edges that keep a behaviour when all others carry what they would on the corrupt prompts.

Question: which connections between heads and MLPs compute this behaviour, and how much of it do they keep?
Source: edges ranked by EAP-IG (Hanna et al., 2403.17806), then cut where the circuit hardly notices (ACDC, Conmy et
    al., 2304.14997, algorithm 1), here several at a time, in the order of their share in the circuit so far, each cut
    measured exactly; faithfulness as in Miller et al. (2407.08734). Random paths as a control are our own.
Inputs: an anatomy, n pairs, a metric for them, logits [n, V] → [n]. Faithfulness as a share: 1 is all of the gap.
Cost: for n/2 pairs, the attribution; a pass for each of the K edges that are confirmed, 8 and 3 backward a cut,
    of which there are some 50 to 100, up to 6 for each edge of the circuit to trim it, and some 150 for the curves;
    with an untrained network, the cuts twice. A pass of the graph costs more than a plain one.
Known failures: finds a circuit, not the only one (redundant edges are dropped); what both prompts share is invisible;
    positions are not told apart; the metric sees two tokens only; what the attribution ranks below K is lost.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from candling.access.anatomy import Anatomy
from candling.access.graph import Graph
from candling.access.pairs import Pairs, halves
from candling.access.paths import random_circuit, without_dead_ends
from candling.errors import InputError
from candling.evidence.claim import Claim
from candling.evidence.measurement import Cost
from candling.runs.memory import FORGETFUL, Memory
from candling.techniques.locate.check import remembered
from candling.techniques.locate.circuit_type import Circuit
from candling.techniques.locate.contract import Metric, Scores
from candling.techniques.locate.faithfulness import Judge, difference

Attribution = Callable[[Anatomy, Pairs, Metric], Scores]
"""Scores of every edge, senders × receivers."""

TOLERANCE = 0.02
"""How far a circuit's faithfulness may lie from what was stated when it is measured again."""

_MARGIN = 0.03  # what a circuit must keep on its own half above what is asked for: the other half is not seen
_DROPPED = (0.25, 0.12, 0.06, 0.03, 0.015)  # of the edges that are left: what a step of the pruning tries
_SLACK = 0.01  # error that a step may add; of several, the largest cut that adds no more is taken
_BROKEN = 0.5  # error from which on a circuit is cut in the largest steps: it explains nothing any more
_CURVE = 24  # sizes on the curve
_ROUNDS = 4  # of that pruning
_PRUNED = 1000  # edges up to which the chosen circuit is pruned further
_RANDOM = 5  # random circuits of each size


@dataclass(frozen=True)
class Point:
    """Circuits of one size."""

    edges: int
    finding: float
    """Faithfulness on the pairs that it was found on."""
    held_out: float
    """On the others, as the two that follow."""
    random: float
    """Mean of random circuits of as many edges, made of whole paths."""
    random_most: float


@dataclass(frozen=True, eq=False)
class FoundCircuit:
    """A circuit with its controls. Effects in units of the metric."""

    circuit: Circuit
    point: Point
    """Its own."""
    error: float
    """Held-out, pair by pair, so that errors cannot cancel: Σ(m(C) − m(clean))² / Σ(m(corrupt) − m(clean))²."""
    curve: tuple[Point, ...]
    """The smallest first."""
    untrained: tuple[tuple[int, float], ...]
    """(edges, held-out faithfulness) of circuits found in the same way in an untrained network."""
    untrained_gap: float | None
    """What the metric differs by in it."""
    scores: Scores
    effects: Tensor
    """[senders, receivers] exact effect of cutting each confirmed edge alone, on the finding half; else NaN."""
    clean: float
    """The metric on held-out pairs."""
    corrupt: float
    finding_pairs: int
    held_out_pairs: int
    cost: Cost

    @property
    def edges(self) -> int:
        """Of the whole graph."""
        return int(self.circuit.graph.edges.sum())

    @property
    def claim(self) -> Claim:
        """What a third party can run again: the edges alone, on the held-out pairs."""
        sentence = (
            f"With only {self.point.edges:,} of {self.edges:,} edges clean, this share of the difference between "
            "clean and corrupt prompts is kept on pairs that were not used to find them."
        )
        return Claim(
            id="explain/circuit",
            kind="circuit",
            problem="explain",
            sentence=sentence,
            predicted=float(f"{self.point.held_out:.6g}"),
            tolerance=TOLERANCE,
        )


def circuit(
    anatomy: Anatomy,
    pairs: Pairs,
    *,
    attribution: Attribution,
    metric: Callable[[Pairs], Metric] = difference,
    untrained: Anatomy | None = None,
    keep: float = 0.9,
    largest: int = 400,
    seed: int = 0,
    memory: Memory = FORGETFUL,
) -> FoundCircuit:
    """The smallest circuit of a nested row that keeps `keep` of the gap on half of the pairs, judged on the others.

    attribution: ranks the edges, of which the first `largest` are confirmed and pruned exactly. untrained: the same
    architecture with fresh weights, as a control. memory: where it is interrupted, what was measured is not measured
    again. Raises InputError for fewer than two pairs, and where clean and
    corrupt prompts give the same metric.
    """
    finding, other = halves(pairs, salt=f"explain {seed}")
    own, held_out = _judges(anatomy, finding, other, metric, memory, "the model")
    scores = memory("attribution", "the model", Scores, lambda: attribution(anatomy, finding, metric(finding)))
    ranked = _ranked(scores)
    confirmed = ranked[:largest]
    effects = torch.full(scores.values.shape, torch.nan, dtype=torch.float64)
    exact = remembered(memory, "edges measured")(anatomy, finding, metric(finding), confirmed)
    effects[tuple(confirmed.T)] = exact.double().cpu()
    row = _nested(own, ranked, largest, "edges cut")
    kept = _chosen(own, row, keep)
    curve = _curve(own, held_out, [kept, *_thinned(row)], seed)
    control = None
    if untrained is not None and (judges := _judged(untrained, finding, other, metric, memory)) is not None:
        own_scores = memory(
            "attribution", "untrained", Scores, lambda: attribution(untrained, finding, metric(finding))
        )
        control = _untrained(*judges, own_scores, largest)
    value = float(held_out.values(kept[None]).mean())
    error = float(held_out.error(kept[None]))
    cost = own.cost + held_out.cost + scores.cost + Cost(forward=len(finding) * (len(confirmed) + 2), backward=0)
    return FoundCircuit(
        circuit=Circuit(own.graph, kept, "pruned attribution", held_out.clean, held_out.corrupt, value, cost),
        point=curve[0],
        error=error,
        curve=tuple(
            {point.edges: point for point in sorted([*curve[1:], curve[0]], key=lambda point: point.edges)}.values()
        ),
        untrained=control.points if control else (),
        untrained_gap=control.gap if control else None,
        scores=scores,
        effects=effects,
        clean=held_out.clean,
        corrupt=held_out.corrupt,
        finding_pairs=len(finding),
        held_out_pairs=len(other),
        cost=cost + control.cost if control else cost,
    )


def _ranked(scores: Scores) -> Tensor:
    """Edges as places [k, 2], the largest score first."""
    places = torch.nonzero(scores.there)
    return places[scores.values[tuple(places.T)].abs().argsort(descending=True, stable=True)]


def _nested(judge: Judge, ranked: Tensor, largest: int, stage: str) -> list[Tensor]:
    """Circuits from all edges to one, each within the one before: by attribution, then by exact damage."""
    sizes, row = [len(ranked)], []
    while sizes[-1] > 2 * largest:
        sizes.append(sizes[-1] // 2)
    for size in [*sizes, min(largest, len(ranked))]:
        mask = torch.zeros_like(judge.graph.edges)
        mask[tuple(ranked[:size].T)] = True
        row.append(mask)
    kept = without_dead_ends(judge.graph, row[-1])
    error = float(judge.error(kept[None]))
    first = int(kept.sum())
    while (left := int(kept.sum())) > 1:
        judge.memory.tell(stage, first - left, first)
        row.append(kept)
        kept, error = _cut(judge, kept, error)
    judge.memory.tell(stage, first, first)
    return [*row, kept] if kept.any() else row


def _cut(judge: Judge, kept: Tensor, error: float) -> tuple[Tensor, float]:
    """The circuit less the edges that give least, as many as it can lose at once, and the error that is left."""
    places = torch.nonzero(kept)
    order = places[judge.slopes(kept)[tuple(places.T)].abs().argsort(stable=True)]
    shares = _DROPPED[:1] if error > _BROKEN else _DROPPED
    counts = sorted({max(1, int(share * len(order))) for share in shares}, reverse=True)
    tries = torch.stack([_less(judge.graph, kept, order[:count]) for count in counts])
    errors = judge.error(tries).tolist()
    allowed = [place for place, own in enumerate(errors) if own <= error + _SLACK]
    best = allowed[0] if allowed else errors.index(min(errors))
    return tries[best], errors[best]


def _chosen(judge: Judge, row: Sequence[Tensor], keep: float) -> Tensor:
    """The smallest that keeps enough, and then less whatever more it can lose."""
    aim = min(keep + _MARGIN, (1 + keep) / 2)
    enough = [abs(1 - share) <= 1 - aim for share in judge.faithfulness(torch.stack(list(row)))]
    kept = next(mask for mask, good in zip(reversed(row), reversed(enough), strict=True) if good)
    for _ in range(_ROUNDS if int(kept.sum()) <= _PRUNED else 0):
        order = _least_first(judge, kept)
        tries = [_less(judge.graph, kept, order[:count]) for count in range(1, len(order) // 2 + 1)]
        shares = judge.faithfulness(torch.stack(tries)) if tries else []
        good = [mask for mask, share in zip(tries, shares, strict=True) if abs(1 - share) <= 1 - aim]
        if not good:
            return kept
        kept = good[-1]
    return kept


def _least_first(judge: Judge, kept: Tensor) -> Tensor:
    """The edges of a circuit as places [k, 2], the least missed first."""
    places = torch.nonzero(kept)
    masks = kept.repeat(len(places), 1, 1)
    masks[torch.arange(len(places)), places[:, 0], places[:, 1]] = False
    return places[judge.error(masks).argsort(stable=True).cpu()]


def _less(graph: Graph, kept: Tensor, places: Tensor) -> Tensor:
    left = kept.clone()
    left[tuple(places.T)] = False
    return without_dead_ends(graph, left)


def _thinned(row: Sequence[Tensor]) -> list[Tensor]:
    """At most so many of them, the first and the last among them, evenly spread over their ranks."""
    if len(row) <= _CURVE:
        return list(row)
    return [row[round(place * (len(row) - 1) / (_CURVE - 1))] for place in range(_CURVE)]


def _curve(own: Judge, held_out: Judge, row: Sequence[Tensor], seed: int) -> list[Point]:
    """One point for each circuit, in their order."""
    generator = torch.Generator().manual_seed(seed)
    masks = torch.stack(list(row))
    points: list[Point] = []
    for mask, finding, kept in zip(row, own.faithfulness(masks), held_out.faithfulness(masks), strict=True):
        own.memory.tell("circuits judged", len(points), len(row))
        size = int(mask.sum())
        drawn = torch.stack([random_circuit(own.graph, size, generator) for _ in range(_RANDOM)])
        random = held_out.faithfulness(drawn)
        points.append(Point(size, finding, kept, sum(random) / _RANDOM, max(random)))
    own.memory.tell("circuits judged", len(points), len(row))
    return points


@dataclass(frozen=True)
class _Untrained:
    points: tuple[tuple[int, float], ...]
    gap: float
    cost: Cost


def _judges(
    anatomy: Anatomy,
    finding: Pairs,
    other: Pairs,
    metric: Callable[[Pairs], Metric],
    memory: Memory,
    whose: str,
) -> tuple[Judge, Judge]:
    """On either half."""
    own = Judge(anatomy, finding, metric(finding), memory=memory, name=f"{whose}, finding half")
    return own, Judge(anatomy, other, metric(other), memory=memory, name=f"{whose}, held-out half")


def _judged(
    untrained: Anatomy, finding: Pairs, other: Pairs, metric: Callable[[Pairs], Metric], memory: Memory
) -> tuple[Judge, Judge] | None:
    """None where the untrained network does not tell clean from corrupt at all."""
    try:
        return _judges(untrained, finding, other, metric, memory, "an untrained one")
    except InputError:
        return None


def _untrained(own: Judge, held_out: Judge, scores: Scores, largest: int) -> _Untrained:
    row = _nested(own, _ranked(scores), largest, "untrained, edges cut")
    row = _thinned(row)
    shares = held_out.faithfulness(torch.stack(row))
    points = {int(mask.sum()): share for mask, share in zip(row, shares, strict=True)}
    cost = own.cost + held_out.cost + scores.cost
    return _Untrained(tuple(sorted(points.items())), held_out.clean - held_out.corrupt, cost)
