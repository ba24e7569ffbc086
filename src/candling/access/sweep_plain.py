"""Every single patch of the residual stream in any decoder, through its own blocks: nothing need be known of them.

Source: activation patching (Heimersheim and Nanda, 2404.15255). The blocks before the patched one are not run again,
all positions of a layer share a batch, and the last position alone is unembedded. Where the decoder's family has a
table of its parts, `sweep` is faster and knows heads, attention and MLPs too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from candling.access.modes import undisturbed
from candling.access.pretrained import Decoder
from candling.access.sweep import Measure, Swept

ROWS = 512
"""Patches times positions in one batch, or one patch."""


@dataclass(frozen=True, eq=False)
class Streams:
    """What each block read in one pass, and with which further arguments it was called."""

    read: Tensor
    """[D + 1, L, d] the residual stream that each block reads; in the end what the final norm reads."""
    arguments: tuple[tuple[tuple[Any, ...], dict[str, Any]], ...]
    """Of each block, the residual stream left out: masks, rotations."""


@torch.no_grad()
def streams(decoder: Decoder, tokens: Tensor) -> Streams:
    """The record of one prompt int64 [L]. Costs one forward pass; the network is left as it was."""
    blocks: Any = decoder.get_submodule(decoder.family.blocks)
    read: list[Tensor] = []
    arguments: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def before(block: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> None:
        stream, rest, named = (args[0], args[1:], named) if args else _named(named)
        read.append(stream[0].clone())
        arguments.append((rest, named))

    def end(norm: nn.Module, args: tuple[Any, ...]) -> None:
        read.append(args[0][0].clone())

    handles = [block.register_forward_pre_hook(before, with_kwargs=True) for block in blocks]
    handles.append(decoder.get_submodule(decoder.family.final_norm).register_forward_pre_hook(end))
    try:
        with undisturbed(decoder):
            decoder.get_submodule(decoder.family.base)(input_ids=tokens[None], use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return Streams(torch.stack(read), tuple(arguments))


def streams_of_both(decoder: Decoder, own: Tensor, other: Tensor) -> tuple[Streams, Streams]:
    """Records of two prompts int64 [L], bit for bit equal up to their first difference."""
    ours, theirs = streams(decoder, own), streams(decoder, other)
    differing = torch.nonzero(own != other)
    first = int(differing[0]) if len(differing) else len(own)
    read = torch.cat([ours.read[:, :first], theirs.read[:, first:]], 1)
    return ours, Streams(read, theirs.arguments)


@torch.no_grad()
def last_logits(decoder: Decoder, own: Streams, tokens: Tensor | None = None) -> Tensor:
    """[V], or [a] of these tokens alone, at the last position of a recorded run"""
    with undisturbed(decoder):
        return _unembed(decoder, own.read[-1, -1:], tokens)[0]


def _named(named: dict[str, Any]) -> tuple[Tensor, tuple[Any, ...], dict[str, Any]]:
    rest = {name: value for name, value in named.items() if name != "hidden_states"}
    return named["hidden_states"], (), rest


@torch.no_grad()
def sweep_plain(
    decoder: Decoder,
    own: Streams,
    *,
    given: Tensor,
    layers: Sequence[int] | None = None,
    tokens: Tensor | None = None,
    measure: Measure | None = None,
) -> Swept:
    """What each block reads at one position alone is replaced by its value in `given`, one after another.

    given: [D or D + 1, L, d]. layers: only these; cells of others are NaN. tokens int64 [a]: logits of these
    alone. measure: what is kept of the logits. Patches that change nothing are not run. Agrees with a forward
    hook up to rounding.
    """

    def read(x: Tensor) -> Tensor:
        found = _unembed(decoder, x, tokens)
        return found if measure is None else measure(found)

    depth, length = len(own.arguments), own.read.shape[1]
    with undisturbed(decoder):
        unpatched = read(own.read[-1, -1:])[0]
        logits = unpatched.expand(depth, 1, length, -1).clone()
        chosen = range(depth) if layers is None else layers
        done = 0
        for layer in chosen:
            changed = (given[layer] != own.read[layer]).any(-1)
            for places in torch.nonzero(changed).flatten().split(max(1, ROWS // length)):
                logits[layer, 0, places] = read(_carry(decoder, own, given, layer, places))
                done += len(places) * (depth - layer)
    for layer in range(depth):
        if layer not in chosen:
            logits[layer] = torch.nan
    return Swept(logits, unpatched, done / depth)


def _carry(decoder: Decoder, own: Streams, given: Tensor, layer: int, places: Tensor) -> Tensor:
    """One patch for each place, from a layer's block to the end: [B, d] at the last position."""
    blocks: Any = decoder.get_submodule(decoder.family.blocks)
    x = own.read[layer].repeat(len(places), 1, 1)
    x[torch.arange(len(places)), places] = given[layer][places]
    for block, (args, named) in list(zip(blocks, own.arguments, strict=True))[layer:]:
        args, named = _spread(args, len(places)), _spread(named, len(places))
        output = block(x, *args, **named)
        x = output if isinstance(output, Tensor) else output[0]
    return x[:, -1]


def _spread(value: Any, count: int) -> Any:
    """Tensors of one prompt, however deep in tuples and dicts, for `count` alike."""
    if isinstance(value, Tensor):
        return value.expand(count, *value.shape[1:]) if value.ndim > 1 and len(value) == 1 else value
    if isinstance(value, dict):
        return {name: _spread(each, count) for name, each in value.items()}
    if type(value) in (tuple, list):
        return type(value)(_spread(each, count) for each in value)
    return value


def _unembed(decoder: Decoder, x: Tensor, tokens: Tensor | None) -> Tensor:
    """[B, d] → [B, V or a]"""
    head: Any = decoder.get_submodule(decoder.family.unembedding)
    normed: Tensor = decoder.get_submodule(decoder.family.final_norm)(x)
    if tokens is None:
        whole: Tensor = head(normed)
        return whole
    if type(head) is nn.Linear:
        return linear(normed, head.weight[tokens], None if head.bias is None else head.bias[tokens])
    some: Tensor = head(normed)[:, tokens]
    return some
