"""A decoder as a graph: who writes to the residual stream, who reads from it, and which reader sees which writer.

    senders      embed · blocks.3.attn.head_out.5 · blocks.3.mlp.out
    receivers    blocks.3.attn.head_q_in.5 · blocks.3.attn.head_k_in.5 · blocks.3.attn.head_v_in.5 ·
                 blocks.3.mlp.in · logits

Key and value inputs are counted by key-value head. GPT-2 small has 157 senders and 445 receivers and 32,491 edges.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from candling.access.anatomy import Anatomy

SLOTS = ("q", "k", "v")


@dataclass(frozen=True)
class Node:
    """A sender or a receiver."""

    kind: str
    """embed, head, mlp or logits"""
    layer: int = -1
    index: int = 0
    """Of a head among the layer's; of a key-value head for the slots k and v."""
    slot: str = ""
    """Of a receiver: q, k or v of a head, `in` of an MLP."""

    def __str__(self) -> str:
        if self.kind == "head":
            return f"blocks.{self.layer}.attn.head_{self.slot + '_in' if self.slot else 'out'}.{self.index}"
        return f"blocks.{self.layer}.mlp.{self.slot or 'out'}" if self.kind == "mlp" else self.kind


@dataclass(frozen=True)
class Graph:
    """In the order of computation. Made by `graph_of`."""

    heads: tuple[int, ...]
    """Query heads of each layer."""
    groups: tuple[int, ...]
    """Key-value heads of each layer."""
    mlps: tuple[bool, ...]
    parallel: tuple[bool, ...]

    @cached_property
    def senders(self) -> tuple[Node, ...]:
        return (Node("embed"), *(node for layer in range(len(self.heads)) for node in self._writers(layer)))

    @cached_property
    def receivers(self) -> tuple[Node, ...]:
        return (*(node for layer in range(len(self.heads)) for node in self._readers(layer)), Node("logits"))

    @cached_property
    def edges(self) -> Tensor:
        """bool [senders, receivers]: does the receiver read what the sender wrote?"""
        return torch.tensor([[self._sees(r, sender) for r in self.receivers] for sender in self.senders])

    def upstream(self, receiver: Node) -> int:
        """Senders that the receiver sees: as many, the first in `senders`."""
        return sum(self._sees(receiver, sender) for sender in self.senders)

    def _writers(self, layer: int) -> Iterator[Node]:
        yield from (Node("head", layer, head) for head in range(self.heads[layer]))
        if self.mlps[layer]:
            yield Node("mlp", layer)

    def _readers(self, layer: int) -> Iterator[Node]:
        for slot, count in zip(SLOTS, (self.heads[layer], *[self.groups[layer]] * 2), strict=True):
            yield from (Node("head", layer, head, slot) for head in range(count))
        if self.mlps[layer]:
            yield Node("mlp", layer, slot="in")

    def _sees(self, receiver: Node, sender: Node) -> bool:
        if receiver.kind == "logits" or sender.layer < receiver.layer:
            return True
        beside = receiver.kind == "mlp" and sender.kind == "head" and sender.layer == receiver.layer
        return beside and not self.parallel[receiver.layer]


def graph_of(anatomy: Anatomy) -> Graph:
    """Who reads whom, from the blocks alone."""
    blocks = anatomy.blocks
    return Graph(
        heads=tuple(block.attention.heads for block in blocks),
        groups=tuple(block.attention.groups for block in blocks),
        mlps=tuple(block.mlp is not None for block in blocks),
        parallel=tuple(block.parallel for block in blocks),
    )
