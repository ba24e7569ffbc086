"""One run of a decoder taken apart, recorded: what each block read and gave, and what each part of it added.

A record of another run, of a mean over runs, or of zeros holds the values that a patch puts in place.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from candling.access.anatomy import Anatomy, Block
from candling.access.wording import bad_input

Layers = tuple[Tensor, ...]

REFERENCE = 16
"""Prompts of a reference set in one pass."""


@dataclass(frozen=True, eq=False)
class Trace:
    """A tensor a block, [..., L, its width]: positions are counted in the last dimension but one."""

    pre: Layers
    """[..., L, d] the residual stream that each block reads, and in the end what the final norm reads: D + 1."""
    queries: Layers
    """[..., H, L, e] turned and scaled."""
    keys: Layers
    """[..., K, L, e] turned."""
    values: Layers
    """[..., K, L, e]"""
    mixed: Layers
    """[..., H, L, e] what each head hands to its output map."""
    attended: Layers
    """[..., L, d] what attention adds to the residual stream."""
    neurons: Layers
    """[..., L, m] hidden units of the MLP, m = 0 where there is none."""
    risen: Layers
    """[..., L, d] what the MLP adds to the residual stream."""

    @property
    def length(self) -> int:
        return int(self.pre[0].shape[-2])

    def mid(self, layer: int) -> Tensor:
        """[..., L, d] the residual stream between attention and MLP."""
        return self.pre[layer] + self.attended[layer]

    def each(self, change: Callable[[Tensor], Tensor]) -> Trace:
        """The same record with every tensor changed."""
        return Trace(*(tuple(change(own) for own in getattr(self, field.name)) for field in fields(self)))

    def beside(self, other: Trace, join: Callable[[Tensor, Tensor], Tensor]) -> Trace:
        """Every tensor of this record joined with its like in the other."""
        both = ((getattr(self, field.name), getattr(other, field.name)) for field in fields(self))
        return Trace(*(tuple(map(join, own, its)) for own, its in both))


@torch.no_grad()
def trace(anatomy: Anatomy, tokens: Tensor) -> Trace:
    """int64 [..., L] → the record of their run. Costs one forward pass of each, without the unembedding."""
    x = anatomy.embed(tokens)
    rows = []
    for block in anatomy.blocks:
        rows.append(_block(block, x))
        x = rows[-1][0] + rows[-1][5] + rows[-1][7]
    pre, *rest = (tuple(layers) for layers in zip(*rows, strict=True))
    return Trace((*pre, x), *rest)


def _block(block: Block, x: Tensor) -> tuple[Tensor, ...]:
    """What one block leaves in the record, in the order of its fields."""
    attention, read = block.attention, block.attention_norm(x)
    queries, keys, values = attention.queries(read) * attention.scale, attention.keys(read), attention.values(read)
    length = x.shape[-2]
    scores = queries @ attention.spread(keys).transpose(-1, -2)
    pattern = scores.masked_fill(attention.hidden(length, length, 0, x.device), -torch.inf).softmax(-1)
    mixed = pattern @ attention.spread(values)
    attended = attention.join(mixed)
    if block.mlp is None:
        return x, queries, keys, values, mixed, attended, x[..., :0], torch.zeros_like(x)
    neurons = block.mlp.neurons(block.mlp_norm(x if block.parallel else x + attended))
    return x, queries, keys, values, mixed, attended, neurons, block.mlp.written(neurons)


def both(anatomy: Anatomy, own: Tensor, other: Tensor) -> tuple[Trace, Trace]:
    """Records of two prompts int64 [L], bit for bit equal up to their first difference."""
    runs = trace(anatomy, torch.stack([own, other]))
    differing = torch.nonzero(own != other)
    first = int(differing[0]) if len(differing) else len(own)
    ours, theirs = runs.each(lambda t: t[0]), runs.each(lambda t: t[1])
    return ours, ours.beside(theirs, lambda a, b: torch.cat([a[..., :first, :], b[..., first:, :]], -2))


Source = Callable[[Anatomy, Trace], Trace]
"""The other run's record → the values that patches put in place, of the same shapes."""


def resample(anatomy: Anatomy, other: Trace) -> Trace:
    """The other run's own values."""
    return other


def zero(anatomy: Anatomy, other: Trace) -> Trace:
    """Nothing at all."""
    return other.each(torch.zeros_like)


def mean(reference: Tensor) -> Source:
    """Means over prompts int64 [m, L'], position by position, at least as long as the pairs.

    The source raises InputError where the prompts are shorter. Costs one forward pass of each prompt, once.
    """
    kept: list[tuple[Anatomy, Trace]] = []

    def source(anatomy: Anatomy, other: Trace) -> Trace:
        if reference.shape[-1] < other.length:
            what = f"reference prompts of {reference.shape[-1]} tokens; pairs have up to {other.length}"
            raise bad_input("reference", f"{what}: give prompts as long")
        if not kept or kept[0][0] is not anatomy:
            kept[:] = [(anatomy, _mean(anatomy, reference))]
        return kept[0][1].each(lambda t: t[..., : other.length, :])

    return source


def _mean(anatomy: Anatomy, reference: Tensor) -> Trace:
    total: Trace | None = None
    for part in reference.split(REFERENCE):
        own = trace(anatomy, part).each(lambda t: t.sum(0))
        total = own if total is None else total.beside(own, torch.add)
    assert total is not None
    return total.each(lambda t: t / len(reference))
