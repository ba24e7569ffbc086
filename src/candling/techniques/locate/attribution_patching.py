"""Attribution patching of a decoder's nodes: AtP, and AtP* with its two repairs.

Question: which nodes matter, all at once, to first order?
Source: AtP: Nanda 2023, and Kramár et al. (2403.00745, section 2); AtP*: the same, section 3: the softmax recomputed
    for queries and keys (QK fix), and gradients with one layer dropped at a time (GradDrop).
Inputs: a decoder taken apart; n pairs of prompts [n, L]; a metric, logits at the prompts' ends [n, V] → [n]. Scores
    [layers, nodes of a layer, positions] in units of the metric: the estimated change when the corrupt value is put
    into the clean run. AtP*'s are magnitudes, at least 0.
Cost: AtP: 2n forward and n backward passes. AtP*: 2n forward and n·(layers + 1)/2 backward.
Known failures: AtP is blind where a softmax is saturated (the QK fix mends that for queries and keys, not for what
    is upstream of them) and where direct and indirect effects cancel (GradDrop mends that for effects through
    another layer, not between attention and MLP of one); a metric that is flat at the clean run, such as a
    Kullback-Leibler divergence from it, gives zeros.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from candling.access.anatomy import Anatomy, Attention, Block
from candling.access.gradients import Pulled, metric_gradient, pull, shift_scores
from candling.access.paired_runs import CLEAN, CORRUPT, Runs, Traced, run_pairs, softmax_of
from candling.access.pairs import Pairs
from candling.access.wording import bad_input, listed, shown
from candling.evidence.measurement import Cost
from candling.techniques.locate.contract import Axis, LogitDifference, Metric, Scores

TOKENS = 512
"""Positions of clean prompts that share a pass unless `batch` is given."""

_STREAM = "resid_pre"
NODES = (_STREAM, "attn.head_out", "attn.out", "mlp.out")
"""Kinds of node that are scored unless others are named."""


def attribution_patching(
    anatomy: Anatomy,
    pairs: Pairs,
    *,
    metric: Metric,
    nodes: Collection[str] = NODES,
    qk_fix: bool = False,
    by_position: bool = False,
    batch: int | None = None,
) -> dict[str, Scores]:
    """AtP's score of every node of the given kinds (`ESTIMATES` names them), by kind.

    Axes: layer, then head or neuron where a layer has several, then position where `by_position`: a node is one
    position of a part, else all positions of it together. resid_pre always has positions, and one layer more,
    `final`, what the final norm reads. qk_fix: attn.q and attn.k by a recomputed softmax. batch: pairs that share
    a pass. Raises InputError for an unknown kind.
    """
    table = _Table(anatomy, pairs, nodes, by_position)
    table.fill(pairs, metric, batch, _fixed(by_position) if qk_fix else ESTIMATES, _plain)
    name = "attribution patching, softmax recomputed" if qk_fix else "attribution patching"
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
    table.fill(pairs, metric, batch, _fixed(by_position), _over_drops)
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

    def __init__(self, anatomy: Anatomy, pairs: Pairs, nodes: Collection[str], by_position: bool) -> None:
        unknown = [shown(kind) for kind in nodes if kind not in ESTIMATES]
        if unknown:
            raise bad_input("nodes", f"{unknown[0]} is no kind of node; choose among {listed(list(ESTIMATES), 8)}")
        self.anatomy, self.count, self.length = anatomy, len(pairs), pairs.length
        self.placed = {kind: by_position or kind == _STREAM for kind in dict.fromkeys(nodes)}
        self.ends = torch.zeros(2, dtype=torch.float64)
        self.values = {kind: self._empty(kind) for kind in self.placed}

    def _empty(self, kind: str) -> Tensor:
        """[layers, nodes, positions or 1]"""
        counts = [_count(block, kind) for block in self.anatomy.blocks] + ([1] if kind == _STREAM else [])
        length = self.length if self.placed[kind] else 1
        values = torch.full((len(counts), max(counts, default=0), length), torch.nan, dtype=torch.float64)
        for own, count in zip(values, counts, strict=True):
            own[:count] = 0
        return values

    def fill(
        self, pairs: Pairs, metric: Metric, batch: int | None, estimates: Mapping[str, Estimate], reduction: Reduction
    ) -> None:
        for own, its, tokens in shares(pairs, metric, batch):
            runs = run_pairs(self.anatomy, own)
            ends, gradient = metric_gradient(runs, its, tokens)
            self.ends += ends.double().sum(1).cpu()
            if _STREAM in self.values:
                final = (_change(runs.final) * gradient).sum(-1).unsqueeze(-2)
                self._add(runs, _STREAM, self.anatomy.depth, reduction, final)
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
            if kind == _STREAM:
                layers[-1] = "final"
            axes = [Axis("layer", tuple(layers))]
            for name, size in ((_UNITS.get(kind), values.shape[1]), ("position", values.shape[2])):
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


Estimate = Callable[[Block, Traced, Pulled], Tensor]
"""→ [S, n, nodes, positions]: T, or 1, the prompt's end"""


def _change(both: Tensor) -> Tensor:
    """[R, ...] → [...]: how the corrupt run differs from the clean one."""
    return both[CORRUPT] - both[CLEAN]


def _heads(block: Block, seen: Traced, found: Pulled) -> Tensor:
    return (_change(seen.heads.mixed) * found.mixed).sum(-1)


def _attention(block: Block, seen: Traced, found: Pulled) -> Tensor:
    return _heads(block, seen, found).sum(-2, keepdim=True)


def _mlp(block: Block, seen: Traced, found: Pulled) -> Tensor:
    if seen.units is None:
        return _none(found)
    return (_change(seen.units.written) * found.written).sum(-1).unsqueeze(-2)


def _neurons(block: Block, seen: Traced, found: Pulled) -> Tensor:
    if seen.units is None or found.neurons is None:
        return _none(found)
    return (_change(seen.units.neurons) * found.neurons).transpose(-1, -2)


def _none(found: Pulled) -> Tensor:
    return found.written[..., :0].transpose(-1, -2)


def _stream(block: Block, seen: Traced, found: Pulled) -> Tensor:
    return (_change(seen.read) * found.read).sum(-1).unsqueeze(-2)


def _queries(block: Block, seen: Traced, found: Pulled) -> Tensor:
    return (_change(seen.heads.query) * found.turned[0]).sum(-1)


def _keys(block: Block, seen: Traced, found: Pulled) -> Tensor:
    return (_change(_own(block.attention, seen.heads.key, found)) * found.turned[1]).sum(-1)


def _values(block: Block, seen: Traced, found: Pulled) -> Tensor:
    return (_change(_own(block.attention, seen.heads.value, found)) * found.turned[2]).sum(-1)


def _own(attention: Attention, spread: Tensor, found: Pulled) -> Tensor:
    """Keys or values as query heads read them [R, n, H, L, e] → of each key-value head [R, n, K, T, e]"""
    return spread[..., :: attention.heads // attention.groups, -found.turned[1].shape[-2] :, :]


ESTIMATES: Mapping[str, Estimate] = {
    _STREAM: _stream,
    "attn.head_out": _heads,
    "attn.out": _attention,
    "attn.q": _queries,
    "attn.k": _keys,
    "attn.v": _values,
    "mlp.out": _mlp,
    "mlp.neurons": _neurons,
}
"""Kinds of node, by site with `blocks.L.` left out. Queries and keys are those that meet, normed and turned; keys and
values are counted by key-value head."""

_UNITS = {
    "attn.head_out": "head",
    "attn.q": "head",
    "attn.k": "key-value head",
    "attn.v": "key-value head",
    "mlp.neurons": "neuron",
}


def _fixed(by_position: bool) -> Mapping[str, Estimate]:
    return {**ESTIMATES, "attn.q": _fixed_queries, "attn.k": _fixed_keys_one_by_one if by_position else _fixed_keys}


def _fixed_queries(block: Block, seen: Traced, found: Pulled) -> Tensor:
    """A patched query changes its own row of the pattern alone: all at once is one by one."""
    heads = seen.heads
    new = softmax_of(block.attention, heads.query[CORRUPT], heads.key[CLEAN], heads.hidden)
    return ((new - heads.pattern[CLEAN]) * found.pattern).sum(-1)


def _fixed_keys(block: Block, seen: Traced, found: Pulled) -> Tensor:
    """All of a head's keys patched together: [S, n, K, 1], standing for the sum over positions."""
    heads = seen.heads
    new = softmax_of(block.attention, heads.query[CLEAN], heads.key[CORRUPT], heads.hidden)
    whole = ((new - heads.pattern[CLEAN]) * found.pattern).sum((-1, -2))
    by_group: Tensor = whole.unflatten(-1, (block.attention.groups, -1))
    return by_group.sum(-1, keepdim=True)


def _fixed_keys_one_by_one(block: Block, seen: Traced, found: Pulled) -> Tensor:
    """Each key patched alone: [S, n, K, T]."""
    heads, attention = seen.heads, block.attention
    scores = heads.query[CLEAN] @ heads.key[CLEAN].transpose(-1, -2) * attention.scale
    shift = heads.query[CLEAN] @ _change(heads.key).transpose(-1, -2) * attention.scale
    effect = shift_scores(scores.masked_fill(heads.hidden, -torch.inf), shift, found.pattern).sum(-2)
    alone: Tensor = effect.unflatten(-2, (attention.groups, -1)).sum(-2)
    return alone[..., -found.turned[1].shape[-2] :]


def _count(block: Block, kind: str) -> int:
    """Nodes of a kind in a layer."""
    attention, mlp = block.attention, block.mlp
    own = {"head": attention.heads, "key-value head": attention.groups, "neuron": 0 if mlp is None else len(mlp.up)}
    return own[_UNITS[kind]] if kind in _UNITS else int(mlp is not None or kind != "mlp.out")
