"""Several runs of the same prompts in one forward pass, with what a backward pass by hand needs of them.

What precedes the first difference is computed once, for all runs, and of the last block only what reaches the
prompts' ends. With R runs, the last G of which have gradients, n prompts, H query heads and K key-value heads of
size e: T positions from the first difference to the last end, L in all, and Q that a block writes to: T, or 1 in the
last block, the prompt's end.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import linear

from candling.access.anatomy import MLP, Activation, Anatomy, Attention, Block
from candling.access.pairs import Pairs

CORRUPT, CLEAN = 0, 1
"""The first two runs."""


@dataclass(frozen=True, eq=False)
class Frame:
    """How the rows of one pass lie: first n times `first` shared positions, then run by run n times `tail`."""

    runs: int
    pairs: int
    first: int
    tail: int
    last: Tensor
    """int64 [n], each prompt's end, counted from `first`"""

    def split(self, flat: Tensor) -> tuple[Tensor, Tensor]:
        """[rows, ...] → shared [n, first, ...], own [R, n, T, ...]"""
        shared = self.pairs * self.first
        own = flat[shared:].unflatten(0, (self.runs, self.pairs, self.tail))
        return flat[:shared].view(self.pairs, self.first, *flat.shape[1:]), own

    def ends(self, x: Tensor) -> Tensor:
        """[..., n, T, d] → [..., n, 1, d]"""
        return x[..., torch.arange(self.pairs, device=x.device), self.last, :].unsqueeze(-2)

    def widened(self, x: Tensor) -> Tensor:
        """[..., n, 1, d] → [..., n, T, d], zero but at the ends; what has T positions stays."""
        if x.shape[-2] == self.tail:
            return x
        wide = x.new_zeros(*x.shape[:-2], self.tail, x.shape[-1])
        wide[..., torch.arange(self.pairs, device=x.device), self.last, :] = x[..., 0, :]
        return wide


@dataclass(frozen=True, eq=False)
class Heads:
    """What an attention computed."""

    raw: tuple[Tensor, Tensor, Tensor]
    """Queries [R, n, H, T, e], keys and values [R, n, K, T, e], before their norms and rotation."""
    query: Tensor
    """[R, n, H, Q, e], as it meets the keys"""
    key: Tensor
    """[R, n, H, L, e], each query head with the keys that it reads"""
    value: Tensor
    """[R, n, H, L, e]"""
    hidden: Tensor
    """bool [Q, L], or [n, 1, 1, L] in the last block: what a query may not look at"""
    pattern: Tensor
    """[R, n, H, Q, L]"""
    mixed: Tensor
    """[R, n, H, Q, e]"""


@dataclass(frozen=True, eq=False)
class Units:
    """What an MLP computed."""

    read: Tensor
    """[R, n, Q, d], before its norm"""
    neurons: Tensor
    """[R, n, Q, m]"""
    written: Tensor
    """[R, n, Q, d]"""
    slope: Tensor
    """[G, n, Q, m], of the activation: its derivative, or with secants that between the two runs"""
    active: Tensor | None
    """[G, n, Q, m], the activation where the MLP has a gate"""
    risen: Tensor | None
    """[G, n, Q, m], what the gate multiplies"""


@dataclass(frozen=True, eq=False)
class Traced:
    """What one block computed."""

    read: Tensor
    """[R, n, T, d]"""
    heads: Heads
    units: Units | None


@dataclass(frozen=True, eq=False)
class Runs:
    """Corrupt, clean, and perhaps between them."""

    anatomy: Anatomy
    frame: Frame
    kept: int
    """G: so many runs, the last ones, have what the backward pass needs."""
    blocks: tuple[Traced, ...]
    embedded: Tensor
    """[R, n, T, d]"""
    final: Tensor
    """[R, n, 1, d], the residual stream at the prompts' ends"""
    secants: bool
    """Are nonlinearities to be taken at their slope between the corrupt and the clean run?"""


@torch.no_grad()
def run_pairs(anatomy: Anatomy, pairs: Pairs, *, steps: int = 0, secants: bool = False) -> Runs:
    """The corrupt and the clean run, and `steps` more from embeddings between them; costs 2 + steps forward passes.

    The steps divide the way from corrupt to clean into equal parts and stand in the middle of each. They have the
    gradients; without steps the clean run has. secants: the backward pass takes softmaxes and activations at their
    slope between the two runs; there are no steps then.
    """
    assert not (steps and secants)
    first = min(pairs.first, int(pairs.last.min()))
    end = int(pairs.last.max()) + 1
    clean, corrupt = anatomy.embed(pairs.clean[:, :end]), anatomy.embed(pairs.corrupt[:, :end])
    between = [torch.lerp(corrupt, clean, (step + 0.5) / steps) for step in range(steps)]
    own = torch.stack([corrupt, clean, *between])[:, :, first:]
    frame = Frame(len(own), len(pairs), first, end - first, pairs.last - first)
    flat = torch.cat([clean[:, :first].flatten(0, 1), own.flatten(0, 2)])
    activated = _between if secants else _activated
    traced = []
    for place, block in enumerate(anatomy.blocks):
        flat, seen = _forward(block, flat, frame, steps or 1, place == anatomy.depth - 1, activated)
        traced.append(seen)
    final = flat.view(frame.runs, frame.pairs, 1, -1) if traced else frame.ends(own)
    return Runs(anatomy, frame, steps or 1, tuple(traced), own, final, secants)


Activated = Callable[[Activation, Tensor, int], tuple[Tensor, Tensor]]
"""An activation, what it is given [rows, m] and how many rows have gradients, the last → all of its results, and
the slopes of those rows"""


def _forward(
    block: Block, flat: Tensor, frame: Frame, kept: int, last: bool, activated: Activated
) -> tuple[Tensor, Traced]:
    """Rows that the block reads and what it makes of them; of the last block only the rows of the ends."""
    read = frame.split(flat)[1]
    heads, mixed = _attend(block.attention, block.attention_norm(flat), frame, last)
    if last:
        flat = frame.ends(read).flatten(0, 2)
        frame = Frame(frame.runs, frame.pairs, 0, 1, frame.last)
    middle = flat + linear(mixed, block.attention.output.flatten(0, 1).T, block.attention.output_bias)
    if block.mlp is None:
        return middle, Traced(read, heads, None)
    source = flat if block.parallel else middle
    written, units = _rise(block.mlp, source, block.mlp_norm(source), frame, kept, activated)
    return middle + written, Traced(read, heads, units)


def _attend(attention: Attention, x: Tensor, frame: Frame, last: bool) -> tuple[Heads, Tensor]:
    """Normed rows → what the heads computed, and what they hand to the output map, row by row [rows, H·e]."""
    weights = (
        (attention.query, attention.query_bias),
        (attention.key, attention.key_bias),
        (attention.value, attention.value_bias),
    )
    maps = [frame.split(_project(x, weight, bias)) for weight, bias in weights]
    shared, raw = ([part.transpose(-3, -2) for part in side] for side in zip(*maps, strict=True))
    norms = (attention.query_norm, attention.key_norm)
    (query, key), (early, before) = (
        [turn(attention, norm(part), start) for norm, part in zip(norms, side[:2], strict=True)]
        for side, start in ((raw, frame.first), (shared, 0))
    )
    value = raw[2]
    if frame.first:
        key = torch.cat([before.expand(frame.runs, *before.shape), key], -2)
        value = torch.cat([shared[2].expand(frame.runs, *shared[2].shape), value], -2)
    key, value = attention.spread(key), attention.spread(value)
    hidden = attention.hidden(frame.tail, key.shape[-2], frame.first, x.device)
    if last:
        hidden, query = hidden[frame.last][:, None, None], frame.ends(query.transpose(-4, -3)).transpose(-4, -3)
    pattern = softmax_of(attention, query, key, hidden)
    mixed = pattern @ value
    rows = mixed.transpose(-3, -2).reshape(-1, attention.heads * mixed.shape[-1])
    if frame.first and not last:
        scores = attention.scores(early, attention.spread(before))
        alike = scores.softmax(-1) @ attention.spread(shared[2])
        rows = torch.cat([alike.transpose(-3, -2).reshape(-1, rows.shape[-1]), rows])
    return Heads((raw[0], raw[1], raw[2]), query, key, value, hidden, pattern, mixed), rows


def softmax_of(attention: Attention, query: Tensor, key: Tensor, hidden: Tensor) -> Tensor:
    """[..., H, Q, e], [..., H, L, e] → [..., H, Q, L]"""
    scores = query @ key.transpose(-1, -2) * attention.scale
    return scores.masked_fill(hidden, -torch.inf).softmax(-1)


def log_softmax_of(attention: Attention, heads: Heads, query: int, key: int) -> Tensor:
    """Logarithms of the pattern [n, H, Q, L] of one run's queries and another's keys"""
    scores = heads.query[query] @ heads.key[key].transpose(-1, -2) * attention.scale
    return scores.masked_fill(heads.hidden, -torch.inf).log_softmax(-1)


def _rise(mlp: MLP, source: Tensor, x: Tensor, frame: Frame, kept: int, activated: Activated) -> tuple[Tensor, Units]:
    """Rows before the norm and the same normed → what the MLP writes, row by row, and what it computed."""
    rows = kept * frame.pairs * frame.tail
    risen = linear(x, mlp.up, mlp.up_bias)
    if mlp.gate is None:
        neurons, slope = activated(mlp.activation, risen, rows)
        beside: tuple[Tensor | None, Tensor | None] = (None, None)
    else:
        active, slope = activated(mlp.activation, linear(x, mlp.gate, mlp.gate_bias), rows)
        neurons = active * risen
        beside = (_kept(active, frame, kept), _kept(risen, frame, kept))
    written = mlp.written(neurons)
    read, ours, out = (frame.split(each)[1] for each in (source, neurons, written))
    return written, Units(read, ours, out, _kept(slope, frame, kept), *beside)


def _kept(flat: Tensor, frame: Frame, kept: int) -> Tensor:
    """The last rows, [G, n, Q, ...]"""
    own: Tensor = flat[-kept * frame.pairs * frame.tail :].unflatten(0, (kept, frame.pairs, frame.tail))
    return own


def _activated(activation: Activation, x: Tensor, rows: int) -> tuple[Tensor, Tensor]:
    """The activation, and its slope in the last rows. It acts on each number apart."""
    with torch.enable_grad():
        leaf = x[-rows:].detach().requires_grad_()
        active = activation(leaf)
        (slope,) = torch.autograd.grad(active.sum(), leaf)
    return torch.cat([activation(x[:-rows]), active.detach()]), slope


def _between(activation: Activation, x: Tensor, rows: int) -> tuple[Tensor, Tensor]:
    """The same with the slope from the run before to the last one; where these meet, the derivative there."""
    active, slope = _activated(activation, x, rows)
    before, after = x[-2 * rows : -rows], x[-rows:]
    rise = after - before
    far = rise.abs() > torch.finfo(x.dtype).eps ** 0.5 * (1 + after.abs())
    return active, torch.where(far, (active[-rows:] - active[-2 * rows : -rows]) / rise, slope)


def _project(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """[rows, d], [H, e, d] → [rows, H, e]"""
    flat = linear(x, weight.flatten(0, 1), None if bias is None else bias.flatten())
    by_head: Tensor = flat.unflatten(-1, weight.shape[:2])
    return by_head


def turn(attention: Attention, x: Tensor, start: int, *, back: bool = False) -> Tensor:
    """Queries or keys [..., L, e] of positions from `start` on, turned as `Attention` turns them.

    back: the gradient at what was turned → before it.
    """
    if attention.rotation is None or not x.shape[-2]:
        return x
    cosine, sine = attention.rotation(torch.arange(start, start + x.shape[-2], device=x.device))
    own, rest = x[..., : cosine.shape[-1]], x[..., cosine.shape[-1] :]
    first, second = (own * sine if back else own).chunk(2, -1)
    swapped = torch.cat([second, -first], -1) if back else torch.cat([-second, first], -1) * sine
    return torch.cat([own * cosine + swapped, rest], -1)
