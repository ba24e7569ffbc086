"""Canonical names for what a decoder computes on the way, the same for every family.

Each is a few hooks on the network's own modules: what its table says where they are, and no pass is replaced. What
has no module of its own (a head's output, a pattern) is derived from what has one, and an edit of it is put in as
the difference that it makes: an edit that changes nothing changes no bit.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

from torch import Tensor, nn

from candling.access.anatomy import Block
from candling.access.dissect import block_of, join_fused, rotary_of, shape_of, split_fused
from candling.access.layout import Layout
from candling.access.wording import bad_input

Tap = Callable[[Tensor], Tensor | None]
"""Receives a site's value; what it returns, if anything, takes its place."""


@dataclass(frozen=True)
class Hook:
    """A function at a module: of its first input if `before`, else of its output."""

    path: str
    before: bool
    tap: Tap


@dataclass(frozen=True, eq=False)
class At:
    """One block of one decoder."""

    decoder: nn.Module
    layout: Layout
    layer: int

    def path(self, name: str) -> str:
        """Of a part of the block; of the block itself, for an empty name."""
        return ".".join(part for part in (self.layout.blocks, str(self.layer), name) if part)

    @cached_property
    def parts(self) -> Block:
        block = self.decoder.get_submodule(self.path(""))
        return block_of(block, self.layout, self.shape, rotary_of(self.decoder, self.layout))

    @cached_property
    def shape(self) -> tuple[int, int]:
        return shape_of(self.decoder, self.layout)


Hooks = Callable[[At, Tap], list[Hook]]


@dataclass(frozen=True)
class Kind:
    """A kind of site; a block has one."""

    shape: str
    """Of n prompts of L tokens: d wide stream, m hidden units, H heads, K key-value heads, e wide each."""
    means: str
    hooks: Hooks
    by_head: bool = False
    """May the name end in the number of one head, whose share [n, …] is then all that is seen?"""
    mlp: bool = False
    """Is it missing where a block has no MLP?"""


def _own(name: str, before: bool, at: At, tap: Tap) -> list[Hook]:
    """The input or output of a part that the table names; of the block, if it does not."""
    return [Hook(at.path(getattr(at.layout, name) if name else ""), before, tap)]


def _before_mlp(at: At, tap: Tap) -> list[Hook]:
    own = at.layout
    return [Hook(at.path(own.mlp_norm or own.mlp or own.up), True, tap)]


def _normed(name: str, at: At, tap: Tap) -> list[Hook]:
    """What a norm hands on; where there is none, what is read."""
    if getattr(at.layout, name):
        return _own(name, False, at, tap)
    return _own("", True, at, tap) if name == "attention_norm" else _before_mlp(at, tap)


# ---- heads: slices of what a map gives or takes ----


def _heads_of(at: At, tap: Tap, x: Tensor) -> Tensor | None:
    """[n, L, H·e], as `_mixed` sees it [n, H, L, e]"""
    new = tap(x.unflatten(-1, (at.shape[0], -1)).transpose(1, 2))
    return None if new is None else new.transpose(1, 2).flatten(2)


def _mixed(at: At, tap: Tap) -> list[Hook]:
    return [Hook(at.path(at.layout.attention_output), True, partial(_heads_of, at, tap))]


def _slot(slot: int, at: At, tap: Tap) -> list[Hook]:
    """Queries, keys or values (0, 1, 2) as they leave their map and norm, [n, H or K, L, e]"""
    own = at.layout
    norm = (own.query_norm, own.key_norm, "")[slot]
    path = norm or own.fused or (own.query, own.key, own.value)[slot]
    count = at.shape[0] if slot == 0 else at.shape[1]

    def hook(x: Tensor) -> Tensor | None:
        if norm and x.ndim == 4:  # by head already, as transformers has it
            new = tap(x.transpose(1, 2))
            return None if new is None else new.transpose(1, 2)
        if norm or not own.fused:
            new = tap(x.unflatten(-1, (count, -1)).transpose(1, 2))
            return None if new is None else new.transpose(1, 2).flatten(2)
        parts = list(split_fused(x, own, *at.shape, -1))
        new = tap(parts[slot].transpose(1, 2))
        if new is None:
            return None
        parts[slot] = new.transpose(1, 2)
        return join_fused(parts, own)

    return [Hook(at.path(path), False, hook)]


# ---- derived: seen from what a module gives, edited by the difference ----


def _reads(slot: int, at: At, tap: Tap) -> list[Hook]:
    """What each head's query, key or value reads from the stream, [n, H or K, L, d]"""
    change: list[Tensor] = []
    count = at.shape[0] if slot == 0 else at.shape[1]

    def read(x: Tensor) -> None:
        seen = x[:, None].repeat(1, count, 1, 1)  # as an edit hands it back, so that both round alike
        new = tap(seen)
        if new is not None:
            change.append(_projected(at.parts, slot, new) - _projected(at.parts, slot, seen))

    def add(own: Tensor) -> Tensor | None:
        return own + change.pop() if change else None

    return [*_own("attention_norm", True, at, read), *_slot(slot, at, add)]


def _projected(block: Block, slot: int, x: Tensor) -> Tensor:
    """A stream for each head [n, H or K, L, d] → its queries, keys or values [n, H or K, L, e], not turned"""
    own = block.attention
    weight = (own.query, own.key, own.value)[slot]
    bias = (own.query_bias, own.key_bias, own.value_bias)[slot]
    found = block.attention_norm(x) @ weight.transpose(1, 2)
    found = found if bias is None else found + bias[:, None]
    return (own.query_norm, own.key_norm, lambda values: values)[slot](found)


def _pattern(at: At, tap: Tap) -> list[Hook]:
    """[n, H, L, L] from queries and keys; an edit moves what heads hand on by (new - old) · values"""
    seen: dict[int, Tensor] = {}

    def hand_on(mixed: Tensor) -> Tensor | None:
        own = at.parts.attention
        queries, keys = (own.turned(seen[slot]) for slot in (0, 1))
        pattern = own.scores(queries, own.spread(keys)).softmax(-1)
        new = tap(pattern)
        return None if new is None else mixed + (new - pattern) @ own.spread(seen[2])

    captures = [hook for slot in range(3) for hook in _slot(slot, at, partial(_keep, seen, slot))]
    return [*captures, *_mixed(at, hand_on)]


def _keep(seen: dict[int, Tensor], place: int, value: Tensor) -> None:
    seen[place] = value


def _head_out(at: At, tap: Tap) -> list[Hook]:
    """[n, H, L, d]"""
    seen: dict[int, Tensor] = {}

    def add(out: Tensor) -> Tensor | None:
        written = at.parts.attention.written(seen[0])
        new = tap(written)
        return None if new is None else out + (new - written).sum(1)

    return [*_mixed(at, partial(_keep, seen, 0)), *_own("attention_output", False, at, add)]


def _resid_mid(at: At, tap: Tap) -> list[Hook]:
    """What attention adds is moved, so that all that comes later reads the new stream."""
    if at.parts.parallel:
        raise bad_input("site", "resid_mid: attention and MLP run side by side, nothing lies between; try resid_pre")
    seen: dict[int, Tensor] = {}

    def add(out: Tensor) -> Tensor | None:
        middle = seen[0] + out
        new = tap(middle)
        return None if new is None else out + (new - middle)

    return [*_own("", True, at, partial(_keep, seen, 0)), *_own("attention_output", False, at, add)]


_STREAM, _QUERY, _GROUP = "[n, L, d]", "[n, H, L, e]", "[n, K, L, e]"

KINDS: Mapping[str, Kind] = {
    "resid_pre": Kind(_STREAM, "the residual stream that the block reads", partial(_own, "", True)),
    "attn.head_q_in": Kind("[n, H, L, d]", "what each head's query reads from it", partial(_reads, 0), by_head=True),
    "attn.head_k_in": Kind("[n, K, L, d]", "the same for keys", partial(_reads, 1), by_head=True),
    "attn.head_v_in": Kind("[n, K, L, d]", "and for values", partial(_reads, 2), by_head=True),
    "attn.norm": Kind(_STREAM, "the stream, normed for attention", partial(_normed, "attention_norm")),
    "attn.q": Kind(_QUERY, "queries, before they are turned", partial(_slot, 0), by_head=True),
    "attn.k": Kind(_GROUP, "keys, before they are turned", partial(_slot, 1), by_head=True),
    "attn.v": Kind(_GROUP, "values", partial(_slot, 2), by_head=True),
    "attn.pattern": Kind("[n, H, L, L]", "where each query looks; rows sum to 1", _pattern, by_head=True),
    "attn.mixed": Kind(_QUERY, "values mixed by the pattern", _mixed, by_head=True),
    "attn.head_out": Kind("[n, H, L, d]", "what each head adds; biases apart", _head_out, by_head=True),
    "attn.out": Kind(_STREAM, "what all heads and the bias add", partial(_own, "attention_output", False)),
    "resid_mid": Kind(_STREAM, "the stream between attention and MLP", _resid_mid),
    "mlp.in": Kind(_STREAM, "what the MLP reads from the stream", _before_mlp, mlp=True),
    "mlp.norm": Kind(_STREAM, "the same, normed", partial(_normed, "mlp_norm"), mlp=True),
    "mlp.neurons": Kind("[n, L, m]", "hidden units, after the activation", partial(_own, "down", True), mlp=True),
    "mlp.out": Kind(_STREAM, "what the MLP adds", partial(_own, "down", False), mlp=True),
    "resid_post": Kind(_STREAM, "what the block hands on", partial(_own, "", False)),
}
"""In the order of computation, which is the order in which edits of one block act."""

_NAME = re.compile(r"blocks\.(\d{1,6})\.([a-z_]+(?:\.[a-z_]+)?)(?:\.(\d{1,6}))?")


@dataclass(frozen=True)
class Place:
    """A canonical name, taken apart."""

    layer: int
    kind: str
    head: int | None = None


def placed(name: str) -> Place | None:
    """None for what is no canonical name. `embed` is what the first block reads."""
    if name == "embed":
        return Place(0, "resid_pre")
    found = _NAME.fullmatch(name)
    if not found or found[2] not in KINDS or (found[3] and not KINDS[found[2]].by_head):
        return None
    return Place(int(found[1]), found[2], int(found[3]) if found[3] else None)


def names(decoder: nn.Module, layout: Layout) -> list[str]:
    """Those of this decoder, heads as a whole, in the order of computation."""
    return [
        f"blocks.{layer}.{kind}"
        for layer in range(_depth(decoder, layout))
        for kind, own in KINDS.items()
        if layout.up or not own.mlp
        if kind != "resid_mid" or not At(decoder, layout, layer).parts.parallel
    ]


def hooks(decoder: nn.Module, layout: Layout, place: Place, tap: Tap) -> list[Hook]:
    """What to hang on the decoder for a tap to see, and maybe change, this site.

    Raises InputError for a block, a head or an MLP that the decoder does not have.
    """
    kind, depth = KINDS[place.kind], _depth(decoder, layout)
    if place.layer >= depth:
        raise bad_input("site", f"no block {place.layer}; the network has {depth}, the first is blocks.0")
    if kind.mlp and not layout.up:
        raise bad_input("site", f"blocks.{place.layer}.{place.kind}: the table knows no MLP")
    at = At(decoder, layout, place.layer)
    if place.head is None:
        return kind.hooks(at, tap)
    count = at.shape["K" in kind.shape]
    if place.head >= count:
        raise bad_input("site", f"blocks.{place.layer}.{place.kind} has no head {place.head}; there are {count}")
    return kind.hooks(at, partial(_one_head, tap, place.head))


def _one_head(tap: Tap, head: int, whole: Tensor) -> Tensor | None:
    new = tap(whole[:, head])
    if new is None:
        return None
    changed = whole.clone()
    changed[:, head] = new
    return changed


def _depth(decoder: nn.Module, layout: Layout) -> int:
    blocks: Any = decoder.get_submodule(layout.blocks)
    return len(blocks)
