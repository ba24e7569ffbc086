"""The networks that all are compared with, side by side: what trusted cases alone teach."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from candling.access import fill, read_weights
from candling.problems.candidates import Candidate


class Together(nn.Module):
    """Networks side by side: the mean of their logits."""

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([network(x) for network in self.networks]).mean(0)


def load_beside(candidate: Candidate) -> nn.Module:
    """What every network is compared with, frozen."""
    if candidate.beside is None:
        raise ValueError("this run compares with no network")
    state = read_weights(candidate.beside)
    networks = []
    for number in sorted({name.partition(".")[0] for name in state}, key=int):
        network = candidate.architecture()
        fill(network, {name.partition(".")[2]: t for name, t in state.items() if name.startswith(f"{number}.")})
        networks.append(network)
    return Together(networks).eval().requires_grad_(False).to(candidate.device)
