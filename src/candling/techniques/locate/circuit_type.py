"""A circuit: the edges of a decoder's graph that are kept.

Question: which edges make up the computation, and what do they give when the others are cut?
Source: the circuit of Wang et al. (2211.00593) and Conmy et al. (2304.14997, section 2.1).
Inputs: a graph and a mask, bool [senders, receivers]; metric values in the metric's units.
Cost: none; what finding it took stands beside it.
Known failures: it holds for the pairs, the metric and the direction that it was found with, and for no others.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import nan

import torch
from torch import Tensor

from candling.access.edges import computed_from
from candling.access.graph import Graph
from candling.access.wording import bad_input
from candling.evidence.measurement import Cost


@dataclass(frozen=True, eq=False)
class Circuit:
    """Edges kept, and the metric, averaged over pairs, with and without the rest."""

    graph: Graph
    kept: Tensor
    """bool [senders, receivers]"""
    technique: str = ""
    clean: float = nan
    """The metric on the clean prompts: with every edge kept, of denoising with every edge cut."""
    corrupt: float = nan
    """On the corrupt ones."""
    value: float = nan
    """With these edges kept."""
    cost: Cost = field(default_factory=lambda: Cost(forward=0, backward=0))
    """In passes of one prompt."""

    def __post_init__(self) -> None:
        if self.kept.shape != self.graph.edges.shape or self.kept.dtype != torch.bool:
            wanted = list(self.graph.edges.shape)
            raise bad_input("circuit", f"kept is {self.kept.dtype} {list(self.kept.shape)}; give bool {wanted}")
        if (self.kept & ~self.graph.edges).any():
            raise bad_input("circuit", "kept names an edge that the graph lacks; keep edges of the graph alone")

    @property
    def edges(self) -> int:
        """How many are kept."""
        return int(self.kept.sum())

    @property
    def nodes(self) -> tuple[str, ...]:
        """Senders of which an edge is kept, in the order of computation."""
        return tuple(str(self.graph.senders[i]) for i in torch.nonzero(self.kept.any(1)).flatten().tolist())

    def names(self) -> list[tuple[str, str]]:
        """(sender, receiver) of every edge kept, in the order of computation."""
        senders, receivers = self.graph.senders, self.graph.receivers
        return [(str(senders[s]), str(receivers[r])) for s, r in torch.nonzero(self.kept).tolist()]

    def pruned(self) -> Circuit:
        """Without edges from which no kept path leads on to the logits: none of them changes what is run."""
        kept, alive = self.kept.clone(), torch.zeros(len(self.graph.receivers), dtype=torch.bool)
        alive[-1] = True
        reads = computed_from(self.graph)
        for sender in reversed(range(len(kept))):
            kept[sender] &= alive
            if kept[sender].any():
                alive[list(reads[sender])] = True
        return replace(self, kept=kept)
