"""Circuits as sets of paths from the embedding to the logits: their dead ends, and random ones."""

from __future__ import annotations

import random
from functools import lru_cache

import torch
from torch import Tensor

from candling.access.edges import computed_from
from candling.access.graph import Graph


@lru_cache(maxsize=8)
def feeds(graph: Graph) -> Tensor:
    """bool [senders, receivers]: does what the receiver reads decide what the sender writes?"""
    table = torch.zeros(len(graph.senders), len(graph.receivers), dtype=torch.bool)
    for sender, places in enumerate(computed_from(graph)):
        table[sender, list(places)] = True
    return table


def without_dead_ends(graph: Graph, kept: Tensor) -> Tensor:
    """bool [senders, receivers] less edges without effect: what they carry is corrupt, or is read by nobody."""
    kept = kept & graph.edges
    owner = feeds(graph)
    ends = torch.tensor([receiver.kind == "logits" for receiver in graph.receivers])
    starts = torch.tensor([sender.kind == "embed" for sender in graph.senders])
    while True:
        alive = starts | (owner & kept.any(0)).any(1)
        useful = ends | (owner & kept.any(1)[:, None]).any(0)
        left = kept & alive[:, None] & useful
        if torch.equal(left, kept):
            return kept
        kept = left


def random_circuit(graph: Graph, edges: int, generator: torch.Generator) -> Tensor:
    """Whole paths drawn edge by edge from the logits back to the embedding, until there are so many edges.

    The last path may be cut short. Uniform over a sender's inputs and a receiver's senders, not over paths.
    """
    senders, reads = _upstream(graph), computed_from(graph)
    draw = random.Random(int(torch.randint(2**62, (1,), generator=generator)))
    chosen: set[tuple[int, int]] = set()
    for _ in range(8 * edges):
        receiver, sender = len(graph.receivers) - 1, -1
        while len(chosen) < edges and sender != 0:
            sender = draw.choice(senders[receiver])
            chosen.add((sender, receiver))
            receiver = draw.choice(reads[sender]) if sender else receiver
        if len(chosen) == edges:
            break
    kept = torch.zeros_like(graph.edges)
    kept[tuple(torch.tensor(sorted(chosen)).T)] = True
    rest = torch.nonzero(graph.edges & ~kept)  # few edges are missing: paths seldom meet them
    left = rest[torch.randperm(len(rest), generator=generator)[: max(0, edges - len(chosen))]]
    kept[tuple(left.T)] = True
    return kept


@lru_cache(maxsize=8)
def _upstream(graph: Graph) -> tuple[tuple[int, ...], ...]:
    """Of each receiver the places of the senders that it sees."""
    return tuple(tuple(torch.nonzero(column).flatten().tolist()) for column in graph.edges.T)
