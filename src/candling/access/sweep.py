"""Every single patch of one prompt, exactly, for a fraction of one forward pass each.

Source: activation patching (Heimersheim and Nanda, 2404.15255; Zhang and Nanda, 2309.16042). Nothing is computed that
a patch leaves as it was: not the blocks before it, not the positions to its left, whose keys and values in the run's
own record serve. Patches at one position join as depth grows and go up through the blocks in one batch with those at
other positions. Where a patch has changed only some positions yet, the others have their queries, keys and values
from the record. In the last block the last position's output alone is wanted. A patch that changes nothing is free.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import gelu, linear

from candling.access.anatomy import Anatomy, Block
from candling.access.parts import MID, PRE, Part
from candling.access.trace import Trace

VALUES = 1 << 24
"""Numbers that the widest step of one batch may hold, attention's probabilities among them."""

_ROWS = 512  # of the residual stream at a time in an MLP: what stays in the processor's cache


Measure = Callable[[Tensor], Tensor]
"""Logits of some patches [B, a] → what is kept of them [B, m]"""


@dataclass(frozen=True, eq=False)
class Swept:
    """What one part alone does to the logits, one cell a patch. With a measure, its m numbers are in their place."""

    logits: Tensor
    """[D, U, L, a] at the last position, one position patched at a time; [D, U, 1, a] all positions at once. NaN
    where a layer has fewer units."""
    own: Tensor
    """[a] without a patch"""
    passes: float
    """Rows that went through a block, as a share of the rows of one pass: the cost without the unembedding."""


@dataclass(frozen=True, eq=False)
class _Group:
    """Patches with the same places changed: positions from `start` on, as many as `rows` has."""

    start: int
    rows: Tensor
    """[B, r, d] the residual stream there; to the right it is the run's own."""
    cells: Tensor
    """int64 [B] where the results go"""

    @property
    def end(self) -> int:
        return self.start + self.rows.shape[1]


@torch.no_grad()
def sweep(
    anatomy: Anatomy,
    own: Trace,
    *,
    given: Trace,
    part: Part,
    by_position: bool = True,
    layers: Sequence[int] | None = None,
    tokens: Tensor | None = None,
    measure: Measure | None = None,
) -> Swept:
    """Each unit of each layer alone takes its value of `given` in the run recorded in `own`, one after another.

    own, given: records of one prompt, no leading dimension. by_position: one position at a time, else all.
    layers: only these; cells of others are NaN. tokens int64 [a]: logits of these alone. measure: what is kept
    of the logits. Agrees with a forward hook up to rounding. Raises InputError where the part is not in the
    network.
    """

    def read(x: Tensor) -> Tensor:
        found = anatomy.unembed(x, tokens)
        return found if measure is None else measure(found)

    anatomy = replace(anatomy, blocks=tuple(_swift(block) for block in anatomy.blocks))
    labels = [part.units(anatomy, layer) for layer in range(anatomy.depth)]
    shape = (anatomy.depth, max(map(len, labels)), own.length if by_position else 1)
    unpatched = read(own.pre[-1][-1:])[0]
    logits = unpatched.expand(*shape, -1).clone()
    chosen = range(anatomy.depth) if layers is None else layers
    limit = _limit(anatomy, own.length)
    flat, done = logits.view(-1, logits.shape[-1]), 0
    for units in _slices(shape[1], max(1, limit // (max(1, len(chosen)) * own.length))):
        entries = [_enter(anatomy, own, given, part, layer, units, shape) for layer in chosen]
        for batch in _batches(entries, own.length, limit):
            last, rows = _carry(anatomy, own, batch)
            done += rows
            for group in last:
                flat[group.cells] = read(group.rows[:, -1])
    for layer, names in enumerate(labels):
        logits[layer, len(names) if layer in chosen else 0 :] = torch.nan
    return Swept(logits, unpatched, done / (own.length * anatomy.depth))


def _swift(block: Block) -> Block:
    """The same block; transformers spells the tanh form of GELU out in eight steps, torch has it in one."""
    spelled_out = block.mlp is not None and type(block.mlp.activation).__name__ == "NewGELUActivation"
    if block.mlp is None or not spelled_out:
        return block
    return replace(block, mlp=replace(block.mlp, activation=partial(gelu, approximate="tanh")))


def _limit(anatomy: Anatomy, length: int) -> int:
    """Rows of one batch."""
    heads = max(block.attention.heads for block in anatomy.blocks)
    return max(_ROWS, VALUES // (4 * anatomy.width + heads * length))


def _slices(count: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, count)) for start in range(0, count, size))


Entries = list[_Group]
"""By level 0 to D: what enters before that block, D: before the final norm."""


def _enter(
    anatomy: Anatomy, own: Trace, given: Trace, part: Part, layer: int, units: slice, shape: tuple[int, int, int]
) -> tuple[int, Entries]:
    """The level before which a layer's patches enter, and the patches that change anything there."""
    units = slice(units.start, min(units.stop, len(part.units(anatomy, layer))))
    if units.start >= units.stop:
        return layer, []
    before = own.pre[layer] if part.place == PRE else own.mid(layer) if part.place == MID else own.pre[layer + 1]
    after = part.stream(anatomy, own, given, layer, units)
    changed = (after != before).any(-1)
    level = layer if part.place == PRE else layer + 1
    if level == anatomy.depth:  # nothing looks back any more
        changed[:, :-1] = False
    cells = (layer * shape[1] + torch.arange(units.start, units.stop, device=after.device)) * shape[2]
    groups = []
    if shape[2] == own.length:
        for start in torch.nonzero(changed.any(0)).flatten().tolist():
            its = torch.nonzero(changed[:, start]).flatten()
            groups.append(_Group(start, after[its, start : start + 1], cells[its] + start))
    elif changed.any():
        start = int(torch.nonzero(changed.any(0))[0])
        its = torch.nonzero(changed.any(1)).flatten()
        groups.append(_Group(start, after[its, start:], cells[its]))
    return level, _risen(anatomy.blocks[layer], own, layer, groups) if part.place == MID else groups


def _risen(block: Block, own: Trace, layer: int, groups: Entries) -> Entries:
    """The stream between attention and MLP → after the MLP, at the rows that changed."""
    if block.mlp is None or not groups:
        return groups
    if block.parallel:  # the MLP reads what the block read, which no patch has changed
        return [replace(g, rows=g.rows + own.risen[layer][g.start : g.end]) for g in groups]
    rows = torch.cat([g.rows.flatten(0, 1) for g in groups])
    _add_mlp(block, rows, rows)
    return _parted(rows, groups, [g.rows.shape[1] for g in groups])


def _batches(entries: Iterable[tuple[int, Entries]], length: int, limit: int) -> Iterator[dict[int, Entries]]:
    """Patches by level, in batches that hold at most `limit` rows each, or one patch."""
    ordered = [(group.start, level, group) for level, groups in entries for group in groups]
    ordered.sort(key=lambda each: each[:2])
    batch: dict[int, Entries] = {}
    room = limit
    for start, level, group in ordered:
        size, done = length - start, 0
        while done < len(group.cells):
            if room < size and batch:
                yield batch
                batch, room = {}, limit
            few = slice(done, done + max(1, room // size))
            taken = _Group(start, group.rows[few], group.cells[few])
            batch.setdefault(level, []).append(taken)
            done += len(taken.cells)
            room -= size * len(taken.cells)
    if batch:
        yield batch


def _carry(anatomy: Anatomy, own: Trace, batch: dict[int, Entries]) -> tuple[Entries, int]:
    """From where each patch enters to the final norm: what it reads at the last position, and the rows computed."""
    groups: Entries = []
    done = 0
    for layer, block in enumerate(anatomy.blocks):
        groups += batch.get(layer, [])
        if groups:
            groups = _step(block, own, layer, groups, last=layer == anatomy.depth - 1)
            done += sum(len(group.cells) * group.rows.shape[1] for group in groups)
    return groups + batch.get(anatomy.depth, []), done


def _step(block: Block, own: Trace, layer: int, groups: Entries, *, last: bool) -> Entries:
    """All patches through one block. last: their output at the last position alone."""
    attention, length = block.attention, own.length
    read = block.attention_norm(torch.cat([g.rows.flatten(0, 1) for g in groups]))
    places = torch.cat([torch.arange(g.start, g.end, device=read.device).repeat(len(g.cells)) for g in groups])
    asked = places == length - 1 if last else slice(None)
    queries = attention.queries(read[asked], places[asked]) * attention.scale
    by_group = zip(
        groups,
        queries.split([_asked(g, length, last) * len(g.cells) for g in groups], 1),
        attention.keys(read, places).split([g.rows.shape[1] * len(g.cells) for g in groups], 1),
        attention.values(read).split([g.rows.shape[1] * len(g.cells) for g in groups], 1),
        strict=True,
    )
    mixed, bases, wanted = [], [], []
    for g, q, k, v in by_group:
        begin, count = length - 1 if last else g.start, len(g.cells)
        q = _filled(q, own.queries[layer][:, begin:], count)
        k, v = (_filled(new, old[layer][:, g.start :], count) for new, old in ((k, own.keys), (v, own.values)))
        left = own.keys[layer][:, : g.start], own.values[layer][:, : g.start]
        mixed.append(_mix(q, (k, v), left, attention.hidden(length - begin, length, begin, read.device)))
        new = g.rows[:, g.rows.shape[1] - _asked(g, length, last) :].flatten(0, 1)
        bases.append(_filled(new[None], own.pre[layer][None, begin:], count).flatten(0, 2))
        wanted.append(replace(g, start=begin))
    base = torch.cat(bases)
    middle = linear(torch.cat(mixed), attention.output.flatten(0, 1).T, attention.output_bias).add_(base)
    _add_mlp(block, middle, base)
    return _parted(middle, wanted, [length - g.start for g in wanted])


def _asked(group: _Group, length: int, last: bool) -> int:
    """How many of its changed positions a block has to give."""
    return int(group.end == length) if last else group.rows.shape[1]


def _filled(new: Tensor, old: Tensor, count: int) -> Tensor:
    """Rows of `count` patches at their first positions [H, B·r, e], then the record's [H, R, e] → [H, B, R, e]"""
    r = new.shape[1] // count
    parts: Tensor = new.unflatten(1, (count, r))
    if r == old.shape[1]:
        return parts
    return torch.cat([parts, old[:, None, r:].expand(-1, count, -1, -1)], 2)


def _mix(queries: Tensor, own: tuple[Tensor, Tensor], left: tuple[Tensor, Tensor], hidden: Tensor) -> Tensor:
    """Attention over the record's keys and values to the left and each patch's own → [B·Q, H·e].

    queries [H, B, Q, e]; own: keys and values [K, B, R, e]; left [K, p, e]; hidden bool [Q, p + R]. The record's
    keys are one matrix for all patches: their queries are its rows.
    """
    (keys, values), (clean_keys, clean_values) = own, left
    groups, start = len(keys), clean_keys.shape[1]
    asked = queries.unflatten(0, (groups, -1))
    rows = asked.flatten(1, 3)
    scores = asked @ keys[:, None].transpose(-1, -2)
    before = (rows @ clean_keys.transpose(1, 2)).unflatten(1, asked.shape[1:4])
    pattern = torch.cat([before, scores], -1).masked_fill_(hidden, -torch.inf).softmax(-1)
    mixed = pattern[..., start:] @ values[:, None]
    mixed += (pattern.flatten(1, 3)[..., :start] @ clean_values).unflatten(1, asked.shape[1:4])
    return mixed.permute(2, 3, 0, 1, 4).flatten(0, 1).flatten(1)


def _add_mlp(block: Block, middle: Tensor, base: Tensor) -> None:
    """Adds what the MLP writes to the stream after attention [N, d], in place. base: what the block read."""
    if block.mlp is None:
        return
    for few in _slices(len(middle), _ROWS):
        middle[few] += block.mlp(block.mlp_norm((base if block.parallel else middle)[few]))


def _parted(rows: Tensor, groups: Entries, sizes: Sequence[int]) -> Entries:
    """Rows of all patches [N, d] → the groups with these rows, as many for a patch as `sizes` says, one a start."""
    parts = rows.split([len(g.cells) * size for g, size in zip(groups, sizes, strict=True)])
    joined: dict[tuple[int, int], list[_Group]] = {}
    for g, part, size in zip(groups, parts, sizes, strict=True):
        joined.setdefault((g.start, size), []).append(replace(g, rows=part.unflatten(0, (-1, size))))
    return [
        alike[0]
        if len(alike) == 1
        else _Group(start, torch.cat([g.rows for g in alike]), torch.cat([g.cells for g in alike]))
        for (start, _), alike in joined.items()
    ]
