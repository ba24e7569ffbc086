"""What a node's corrupt value is expected to do to the metric: one function for each kind of node.

Question: what does one node do, to first order?
Source: Kramár et al. (2403.00745): equation 4, and for queries and keys 7, 9 and 10 (QK fix).
Inputs: a block of a decoder, what the two runs computed there, and S gradients. Estimates [S, n, nodes, positions] in
    units of the metric.
Cost: none beside the passes that gave these; a softmax or two a head for the QK fix.
Known failures: those of `attribution_patching`, which adds the estimates up.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from candling.access.anatomy import Attention, Block
from candling.access.gradients import Pulled, shift_scores
from candling.access.paired_runs import CLEAN, CORRUPT, Traced, softmax_of

STREAM = "resid_pre"
"""The kind that has one node for each position, and one layer more."""

Estimate = Callable[[Block, Traced, Pulled], Tensor]
"""→ [S, n, nodes, positions]: T, or 1, the prompt's end"""


def change(both: Tensor) -> Tensor:
    """[R, ...] → [...]: how the corrupt run differs from the clean one."""
    return both[CORRUPT] - both[CLEAN]


def _heads(block: Block, seen: Traced, found: Pulled) -> Tensor:
    return (change(seen.heads.mixed) * found.mixed).sum(-1)


def _attention(block: Block, seen: Traced, found: Pulled) -> Tensor:
    return _heads(block, seen, found).sum(-2, keepdim=True)


def _mlp(block: Block, seen: Traced, found: Pulled) -> Tensor:
    if seen.units is None:
        return _none(found)
    return (change(seen.units.written) * found.written).sum(-1).unsqueeze(-2)


def _neurons(block: Block, seen: Traced, found: Pulled) -> Tensor:
    if seen.units is None or found.neurons is None:
        return _none(found)
    return (change(seen.units.neurons) * found.neurons).transpose(-1, -2)


def _none(found: Pulled) -> Tensor:
    return found.written[..., :0].transpose(-1, -2)


def _stream(block: Block, seen: Traced, found: Pulled) -> Tensor:
    return (change(seen.read) * found.read).sum(-1).unsqueeze(-2)


def _queries(block: Block, seen: Traced, found: Pulled) -> Tensor:
    return (change(seen.heads.query) * found.turned[0]).sum(-1)


def _keys(block: Block, seen: Traced, found: Pulled) -> Tensor:
    return (change(_own(block.attention, seen.heads.key, found)) * found.turned[1]).sum(-1)


def _values(block: Block, seen: Traced, found: Pulled) -> Tensor:
    return (change(_own(block.attention, seen.heads.value, found)) * found.turned[2]).sum(-1)


def _own(attention: Attention, spread: Tensor, found: Pulled) -> Tensor:
    """Keys or values as query heads read them [R, n, H, L, e] → of each key-value head [R, n, K, T, e]"""
    return spread[..., :: attention.heads // attention.groups, -found.turned[1].shape[-2] :, :]


ESTIMATES: Mapping[str, Estimate] = {
    STREAM: _stream,
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

UNITS = {
    "attn.head_out": "head",
    "attn.q": "head",
    "attn.k": "key-value head",
    "attn.v": "key-value head",
    "mlp.neurons": "neuron",
}


def fixed(by_position: bool) -> Mapping[str, Estimate]:
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
    shift = heads.query[CLEAN] @ change(heads.key).transpose(-1, -2) * attention.scale
    effect = shift_scores(scores.masked_fill(heads.hidden, -torch.inf), shift, found.pattern).sum(-2)
    alone: Tensor = effect.unflatten(-2, (attention.groups, -1)).sum(-2)
    return alone[..., -found.turned[1].shape[-2] :]
