"""A metric's gradient at every part of a decoder, carried back by hand through runs of `paired_runs`.

It takes no gradient of a weight, may carry many gradients at once, and stops at the first difference between the
runs. The letters in shapes are those of `paired_runs`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from candling.access.anatomy import Attention, Block, Norm
from candling.access.paired_runs import CLEAN, CORRUPT, Runs, Traced, log_softmax_of, turn

Metric = Callable[[Tensor], Tensor]
"""Logits at the prompts' ends [n, V] → one number a pair [n]"""


@torch.no_grad()
def metric_gradient(runs: Runs, metric: Metric, tokens: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The metric on corrupt and clean prompts [2, n], and its gradient at `runs.final` [G, n, 1, d].

    tokens int64 [a]: all that is unembedded; the metric is then given [n, a].
    """
    anatomy, kept = runs.anatomy, runs.final[-runs.kept :]
    logits = anatomy.unembed(runs.final, tokens)[:, :, 0]
    ends = torch.stack([metric(each) for each in logits[:2]])
    with torch.enable_grad():
        leaf = logits[-runs.kept :].detach().requires_grad_()
        total = torch.stack([metric(each).sum() for each in leaf]).sum()
        (gradient,) = torch.autograd.grad(total, leaf)
    weight = anatomy.unembedding if tokens is None else anatomy.unembedding[tokens]
    return ends, norm_back(anatomy.final_norm, kept, (gradient @ weight).unsqueeze(-2))


@dataclass(frozen=True, eq=False)
class Pulled:
    """A metric's gradient at the parts of one block, for S gradients carried side by side (else S is G)."""

    layer: int
    written: Tensor
    """[S, n, Q, d], at what the MLP writes"""
    neurons: Tensor | None
    """[S, n, Q, m]"""
    mlp_input: Tensor | None
    """[S, n, Q, d], before the MLP's norm"""
    attended: Tensor
    """[S, n, Q, d], at what the attention writes"""
    mixed: Tensor
    """[S, n, H, Q, e]"""
    pattern: Tensor
    """[S, n, H, Q, L], at the probabilities"""
    turned: tuple[Tensor, Tensor, Tensor]
    """At queries [S, n, H, Q, e] and keys as they meet, and at values [S, n, K, T, e]"""
    by_head: Tensor | None
    """[H + 2 K, n, T, d], at the inputs of queries, keys and values before the norm, averaged over runs, if asked"""
    read: Tensor
    """[S, n, T, d], at what the block reads"""


@torch.no_grad()
def pull(runs: Runs, gradient: Tensor, *, by_head: bool = False, drop: bool = False) -> Iterator[Pulled]:
    """The gradient at `runs.final` [S, n, 1, d], S = G or G = 1, carried back block by block, the last first.

    by_head: also give the gradient at each head's own inputs. drop: carry along, for every block, the gradient that
    passes it by: below the block that is dropped there is one gradient more, added at the end. Costs one backward
    pass a gradient.
    """
    for layer in reversed(range(runs.anatomy.depth)):
        found = _Backward(runs, layer, gradient).pulled(by_head)
        if drop:
            past = runs.frame.widened(gradient[:1])
            found = replace(found, read=torch.cat([found.read, past]))
        yield found
        gradient = found.read


@dataclass(frozen=True, eq=False)
class _Backward:
    """One block's part of the backward pass."""

    runs: Runs
    layer: int
    gradient: Tensor
    """[S, n, Q, d], at what leaves the block"""

    @cached_property
    def block(self) -> Block:
        return self.runs.anatomy.blocks[self.layer]

    @cached_property
    def seen(self) -> Traced:
        return self.runs.blocks[self.layer]

    def pulled(self, by_head: bool) -> Pulled:
        neurons, mlp_input = self._units()
        both = self.gradient if mlp_input is None else self.gradient + mlp_input
        attended = self.gradient if self.block.parallel else both
        mixed = (attended @ self.block.attention.output.flatten(0, 1).T).unflatten(
            -1, (self.block.attention.heads, -1)
        )
        mixed = mixed.transpose(-3, -2)
        pattern, turned = self._heads(mixed)
        raw = self._raw(turned)
        inputs = self._by_head(raw) if by_head else None
        joined = self._joined(raw) if inputs is None or self.runs.kept > 1 else inputs.sum(0)[None]
        read = self.runs.frame.widened(both) + joined
        return Pulled(self.layer, self.gradient, neurons, mlp_input, attended, mixed, pattern, turned, inputs, read)

    def _kept(self, x: Tensor) -> Tensor:
        return x[-self.runs.kept :]

    def _units(self) -> tuple[Tensor | None, Tensor | None]:
        """Gradients at neurons and at the MLP's input."""
        mlp, units = self.block.mlp, self.seen.units
        if mlp is None or units is None:
            return None, None
        neurons = self.gradient @ mlp.down
        if mlp.gate is None or units.active is None or units.risen is None:
            x = (neurons * units.slope) @ mlp.up
        else:
            x = (neurons * units.active) @ mlp.up + (neurons * units.risen * units.slope) @ mlp.gate
        return neurons, norm_back(self.block.mlp_norm, self._kept(units.read), x)

    def _heads(self, mixed: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
        """Gradients at probabilities, and at queries, keys and values."""
        attention, first = self.block.attention, self.runs.frame.first
        heads = self.seen.heads
        probabilities = self._kept(heads.pattern)
        pattern = mixed @ self._kept(heads.value).transpose(-1, -2)
        to_query, to_key = self._scores(probabilities, pattern)
        query = to_query @ self._kept(heads.key)
        key = to_key[..., first:].transpose(-1, -2) @ self._kept(heads.query)
        value = probabilities[..., first:].transpose(-1, -2) @ mixed
        return pattern, (query, _gathered(attention, key), _gathered(attention, value))

    def _scores(self, probabilities: Tensor, pattern: Tensor) -> tuple[Tensor, Tensor]:
        """The gradient at scores on its way to queries, and to keys: the same but for secants.

        With secants queries, or keys, go from the clean to the corrupt run, all at once; the other side stays clean.
        """
        attention, heads = self.block.attention, self.seen.heads
        if not self.runs.secants:
            mean = (probabilities * pattern).sum(-1, keepdim=True)
            both = probabilities * (pattern - mean) * attention.scale
            return both, both
        own = log_softmax_of(attention, heads, CLEAN, CLEAN)
        moved = (log_softmax_of(attention, heads, *runs) for runs in ((CORRUPT, CLEAN), (CLEAN, CORRUPT)))
        query, key = (softmax_secant(own, other, pattern) * attention.scale for other in moved)
        return query, key

    def _raw(self, turned: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """The same before norms and rotation, at all positions."""
        attention, frame = self.block.attention, self.runs.frame
        query, key, value = turned
        if query.shape[-2] != frame.tail:
            query = frame.widened(query.transpose(-4, -3)).transpose(-4, -3)
        own = self.seen.heads.raw
        query, key = (turn(attention, each, frame.first, back=True) for each in (query, key))
        query = norm_back(attention.query_norm, self._kept(own[0]), query)
        key = norm_back(attention.key_norm, self._kept(own[1]), key)
        return query, key, value

    def _joined(self, raw: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        """Gradient at the attention's input, of all heads together [S, n, T, d]"""
        attention = self.block.attention
        weights = (attention.query, attention.key, attention.value)
        x = sum(g.transpose(-3, -2).flatten(-2) @ w.flatten(0, 1) for g, w in zip(raw, weights, strict=True))
        assert isinstance(x, Tensor)
        return norm_back(self.block.attention_norm, self._kept(self.seen.read), x)

    def _by_head(self, raw: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        """The same head by head, averaged over runs.

        The norm's backward pass is linear, with a scale and one direction for each run and position: runs are
        averaged in the head's own e dimensions first, and the direction's share is taken there too, since its
        product with a head's gradient is what the head read of it.
        """
        attention, norm = self.block.attention, self.block.attention_norm
        unit, rate = (None, None) if norm.trivial else unit_of(norm, self._kept(self.seen.read))
        weights = (
            (attention.query, attention.query_bias),
            (attention.key, attention.key_bias),
            (attention.value, attention.value_bias),
        )
        size, found = len(attention.query) + 2 * len(attention.key), 0
        out = raw[0].new_empty(size, *raw[0].shape[1:2], *raw[0].shape[3:4], self.runs.anatomy.width)
        for g, own, (weight, bias) in zip(raw, self.seen.heads.raw, weights, strict=True):
            part = out[found : found + len(weight)]
            found += len(weight)
            scaled = g if rate is None else g * rate.unsqueeze(-3)
            torch.bmm(
                scaled.mean(0).transpose(0, 1).flatten(1, 2), weight, out=part.view(len(weight), -1, part.shape[-1])
            )
            if unit is None:
                continue
            if norm.weight is not None:
                part *= norm.weight
            if len(unit) == 1:  # nothing was averaged: the direction's share is in the part itself
                share = (part * unit).mean(-1)[None]
            else:
                read = self._kept(own) - _still(norm, weight, bias)
                share = (scaled * read).sum(-1).transpose(1, 2) / (len(unit) * unit.shape[-1])
            if norm.centred:
                part -= part.mean(-1, keepdim=True)
            for ours, direction in zip(share, unit, strict=True):
                part.addcmul_(ours.unsqueeze(-1), direction, value=-1)
        return out


def _still(norm: Norm, weight: Tensor, bias: Tensor | None) -> Tensor | float:
    """What heads give for a normed input without direction: [H, 1, e]"""
    still = 0.0 if norm.bias is None else weight @ norm.bias
    still = still if bias is None else still + bias
    return still[:, None] if isinstance(still, Tensor) else still


def unit_of(norm: Norm, x: Tensor) -> tuple[Tensor, Tensor]:
    """[..., d] → what the norm makes of it before its weight [..., d], and its scale [..., 1]"""
    x = x - x.mean(-1, keepdim=True) if norm.centred else x
    rate = torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + norm.eps)
    return x * rate, rate


def norm_back(norm: Norm, x: Tensor, gradient: Tensor) -> Tensor:
    """Gradient at a norm's output → at its input x [..., d]"""
    if norm.trivial:
        return gradient
    unit, rate = unit_of(norm, x)
    own = gradient if norm.weight is None else gradient * norm.weight
    rest = own - unit * (own * unit).mean(-1, keepdim=True)
    return rate * (rest - own.mean(-1, keepdim=True) if norm.centred else rest)


def softmax_secant(a: Tensor, b: Tensor, gradient: Tensor) -> Tensor:
    """Gradient at probabilities → at scores, by the slope of the softmax between two places [..., L], in logarithms.

    With logarithmic means of the probabilities in the place of probabilities, the softmax's Jacobian turns exactly
    the difference of the scores into that of the probabilities: p - p' = mean·(ln p - ln p'), where ln p - ln p' is
    the difference of the scores less a number for the row, which the means give since the left sides add up to 0.
    """
    means = log_mean(a, b)
    mean = (means * gradient).sum(-1, keepdim=True) / means.sum(-1, keepdim=True)
    return means * (gradient - mean)


def log_mean(a: Tensor, b: Tensor) -> Tensor:
    """(x - y)/(ln x - ln y) of exp(a) and exp(b), their logarithmic mean; 0 where both are exp(-inf)."""
    gap = (a - b).abs()
    share = torch.where(gap > torch.finfo(a.dtype).eps, -torch.expm1(-gap) / gap, 1.0)
    return torch.maximum(a, b).exp() * share


def _gathered(attention: Attention, x: Tensor) -> Tensor:
    """[..., H, L, e] → [..., K, L, e]: the sum over the query heads that read a key-value head."""
    return x if attention.groups == attention.heads else x.unflatten(-3, (attention.groups, -1)).sum(-3)


def shift_scores(scores: Tensor, shift: Tensor, gradient: Tensor) -> Tensor:
    """What moving one score alone does to Σ softmax(scores)·gradient, for each of the last dimension: [..., L]

    scores may be -inf. With p the probability and p' the new one, the others shrink in proportion, so it is
    (p' - p)·(its gradient - the others' mean gradient). The largest is set apart: where it is nearly 1, what the
    others weigh is lost in 1 - p.
    """
    log = scores.log_softmax(-1)
    probability = log.exp()
    top = torch.zeros_like(log, dtype=torch.bool).scatter(-1, log.argmax(-1, keepdim=True), True)
    others = log.masked_fill(top, -torch.inf)
    rest = torch.where(top, others.logsumexp(-1, keepdim=True), torch.log1p(-probability.masked_fill(top, 0.0)))
    moved = torch.sigmoid(log - rest + shift) - probability
    beside_top = (others.softmax(-1).nan_to_num(0.0) * gradient).sum(-1, keepdim=True)
    weighed = probability * gradient
    mean = (weighed.sum(-1, keepdim=True) - weighed) / rest.exp()
    return moved * (gradient - torch.where(top, beside_top, mean))
