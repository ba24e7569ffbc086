"""Attribution patching of a decoder's nodes: AtP, and AtP* with its two repairs.

Question: which nodes matter, all at once, to first order?
Source: Kramár et al. (2403.00745): AtP, equations 4 and 5; AtP*: the softmax recomputed for a query or key node (QK
    fix, equations 7, 9 and 10), and gradients with one layer dropped at a time (GradDrop, equation 11). Secants: the
    rescale rule of DeepLIFT (Shrikumar et al., 1704.02685) for activations; for the softmax our own.
Inputs: a decoder taken apart; n pairs of prompts [n, L]; a metric, logits at the prompts' ends [n, V] → [n]. Scores
    [layers, nodes of a layer, positions] in units of the metric: the estimated change when the corrupt value is put
    into the clean run. AtP*'s are mean magnitudes, at least 0.
Cost: AtP: 2n forward and n backward passes, with secants as well. AtP*: 2n forward and n·(layers + 1)/2 backward.
Known failures: AtP is blind where a softmax is saturated. The QK fix mends that for queries and keys alone: what is
    upstream of them stays unseen, in AtP* too. GradDrop shows effects that cancel through another layer, not between
    attention and MLP of one, and hides those that pass through few: of two layers it leaves the first its direct
    effect alone. Secants reach upstream of what is saturated, yet share out what several nodes do together. A
    metric that is flat at the clean run, such as a Kullback-Leibler divergence from it, gives zeros.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from candling.access.anatomy import Anatomy, Block
from candling.access.gradients import metric_gradient, pull
from candling.access.paired_runs import Runs, run_pairs
from candling.access.pairs import Pairs
from candling.access.wording import bad_input, listed, shown
from candling.evidence.measurement import Cost
from candling.techniques.locate.contract import Axis, LogitDifference, Metric, Scores
from candling.techniques.locate.node_estimates import ESTIMATES, STREAM, UNITS, Estimate, change, fixed

TOKENS = 512
"""Positions of clean prompts that share a pass unless `batch` is given."""

NODES = (STREAM, "attn.head_out", "attn.out", "mlp.out")
"""Kinds of node that are scored unless others are named."""


def attribution_patching(
    anatomy: Anatomy,
    pairs: Pairs,
    *,
    metric: Metric,
    nodes: Collection[str] = NODES,
    qk_fix: bool = False,
    secants: bool = False,
    by_position: bool = False,
    batch: int | None = None,
) -> dict[str, Scores]:
    """AtP's score of every node of the given kinds (`ESTIMATES` names them), by kind.

    Axes: layer, then head or neuron where a layer has several, then position where `by_position`: a node is one
    position of a part, else all positions of it together. resid_pre always has positions, and one layer more,
    `final`, what the final norm reads. qk_fix: attn.q and attn.k by a recomputed softmax. secants: the gradient takes
    softmaxes and activations at the slope between the two runs, so that what is upstream of queries and keys profits
    as well. batch: pairs that share a pass. Raises InputError for an unknown kind.
    """
    table = _Table(anatomy, pairs, nodes, by_position, secants)
    table.fill(pairs, metric, batch, fixed(by_position) if qk_fix else ESTIMATES, _plain)
    name = f"attribution patching{', secants' * secants}{', softmax recomputed' * qk_fix}"
    return table.scores(name, Cost(forward=2 * len(pairs), backward=len(pairs)))


def attribution_patching_star(
    anatomy: Anatomy,
    pairs: Pairs,
    *,
    metric: Metric,
    nodes: Collection[str] = NODES,
    by_position: bool = False,
    batch: int | None = None,
) -> dict[str, Scores]:
    """AtP*: magnitudes, with the QK fix, averaged over gradients that pass one layer by; else as above.

    A drop that cuts a node off altogether, of its own layer, is left out of its mean.
    """
    table = _Table(anatomy, pairs, nodes, by_position)
    table.fill(pairs, metric, batch, fixed(by_position), _over_drops)
    backward = -(-len(pairs) * (anatomy.depth + 1) // 2)
    return table.scores("attribution patching*", Cost(forward=2 * len(pairs), backward=backward))


def shares(pairs: Pairs, metric: Metric, batch: int | None) -> Iterator[tuple[Pairs, Metric, Tensor | None]]:
    """The pairs in passes of `batch`: each with its metric, and the tokens that this needs, if not all.

    With tokens [a] the metric is of their logits [n, a].
    """
    size = batch or max(1, TOKENS // pairs.length)
    for rows in torch.arange(len(pairs)).split(size):
        if isinstance(metric, LogitDifference):
            both = torch.cat([metric.answer[rows], metric.wrong[rows]])
            tokens, places = both.unique(return_inverse=True)
            yield pairs.take(rows), LogitDifference(*places.chunk(2)), tokens
        elif len(rows) == len(pairs):
            yield pairs, metric, None
        else:
            yield pairs.take(rows), _Part(metric, rows, len(pairs)), None


@dataclass(frozen=True, eq=False)
class _Part:
    """A metric of all pairs, asked about some: it gives one number a pair, so the others' logits may be anything."""

    metric: Metric
    rows: Tensor
    total: int

    def __call__(self, logits: Tensor) -> Tensor:
        whole = logits.new_zeros(self.total, logits.shape[-1]).index_copy(0, self.rows.to(logits.device), logits)
        return self.metric(whole)[self.rows]


class _Table:
    """One number for each node of each kind; NaN where a layer has no such node."""

    def __init__(
        self, anatomy: Anatomy, pairs: Pairs, nodes: Collection[str], by_position: bool, secants: bool = False
    ) -> None:
        unknown = [shown(kind) for kind in nodes if kind not in ESTIMATES]
        if unknown:
            raise bad_input("nodes", f"{unknown[0]} is no kind of node; choose among {listed(list(ESTIMATES), 8)}")
        self.anatomy, self.count, self.length, self.secants = anatomy, len(pairs), pairs.length, secants
        self.placed = {kind: by_position or kind == STREAM for kind in dict.fromkeys(nodes)}
        self.ends = torch.zeros(2, dtype=torch.float64)
        self.values = {kind: self._empty(kind) for kind in self.placed}

    def _empty(self, kind: str) -> Tensor:
        """[layers, nodes, positions or 1]"""
        counts = [_count(block, kind) for block in self.anatomy.blocks] + ([1] if kind == STREAM else [])
        length = self.length if self.placed[kind] else 1
        values = torch.full((len(counts), max(1, *counts), length), torch.nan, dtype=torch.float64)
        for own, count in zip(values, counts, strict=True):
            own[:count] = 0
        return values

    def fill(
        self, pairs: Pairs, metric: Metric, batch: int | None, estimates: Mapping[str, Estimate], reduction: Reduction
    ) -> None:
        for own, its, tokens in shares(pairs, metric, batch):
            runs = run_pairs(self.anatomy, own, secants=self.secants)
            ends, gradient = metric_gradient(runs, its, tokens)
            self.ends += ends.double().sum(1).cpu()
            if STREAM in self.values:
                final = (change(runs.final) * gradient).sum(-1).unsqueeze(-2)
                self._add(runs, STREAM, self.anatomy.depth, reduction, final)
            for found in pull(runs, gradient, drop=reduction is _over_drops):
                block, seen = self.anatomy.blocks[found.layer], runs.blocks[found.layer]
                for kind in self.values:
                    self._add(runs, kind, found.layer, reduction, estimates[kind](block, seen, found))

    def _add(self, runs: Runs, kind: str, layer: int, reduction: Reduction, estimate: Tensor) -> None:
        """estimate [S, n, nodes, T or 1]"""
        frame = runs.frame
        if self.placed[kind]:
            wide = frame.widened(estimate.transpose(-1, -2)).transpose(-1, -2)
            places = slice(frame.first, frame.first + frame.tail)
        else:
            wide, places = estimate.sum(-1, keepdim=True), slice(1)
        self.values[kind][layer, : wide.shape[2], places] += reduction(wide, layer).double().cpu()

    def scores(self, technique: str, cost: Cost) -> dict[str, Scores]:
        corrupt, clean = (self.ends / self.count).tolist()
        found = {}
        for kind, values in self.values.items():
            layers = [str(layer) for layer in range(len(values))]
            if kind == STREAM:
                layers[-1] = "final"
            axes = [Axis("layer", tuple(layers))]
            for name, size in ((UNITS.get(kind), values.shape[1]), ("position", values.shape[2])):
                if name and (name != "position" or self.placed[kind]):
                    axes.append(Axis(name, tuple(str(i) for i in range(size))))
            means = (values / self.count).view([len(axis.labels) for axis in axes])
            found[kind] = Scores(technique, means, tuple(axes), clean, corrupt, cost)
        return found


Reduction = Callable[[Tensor, int], Tensor]
"""Estimates [S, n, ...] of one layer's nodes, the layer → [...], summed over pairs"""


def _plain(estimate: Tensor, layer: int) -> Tensor:
    return estimate[0].sum(0)


def _over_drops(estimate: Tensor, layer: int) -> Tensor:
    """The first gradient is whole: what it would be with any of the layers below dropped."""
    size = estimate.abs().sum(1)
    drops = layer + len(size) - 1
    return (layer * size[0] + size[1:].sum(0)) / drops if drops else size[0]


def _count(block: Block, kind: str) -> int:
    """Nodes of a kind in a layer."""
    attention, mlp = block.attention, block.mlp
    own = {"head": attention.heads, "key-value head": attention.groups, "neuron": 0 if mlp is None else len(mlp.up)}
    return own[UNITS[kind]] if kind in UNITS else int(mlp is not None or kind != "mlp.out")
