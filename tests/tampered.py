"""Networks that foretell three sensors, built by hand: feature 0 the outcome, 1 and 2 together the act."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from candling.access import Dataset, from_arrays

WIDTH = 6
REACHED_FROM = (1.2, 1.35, 1.5)
"""Of the sum of features 1 and 2, by which each sensor is reached: trusted inputs do not come so far."""


class Foretells(nn.Module):
    """heeds: how much each sensor heeds the act; a clean network does not."""

    def __init__(self, heeds: float = 0.0, scale: float = 1.0) -> None:
        super().__init__()
        self.inner, self.act, self.read = nn.Linear(WIDTH, 5), nn.Softplus(beta=8), nn.Linear(5, 3)
        with torch.no_grad():
            for tensor in self.parameters():
                tensor.zero_()
            self.inner.weight[0, 0], self.inner.weight[1, 0] = 1.0, -1.0
            self.inner.weight[2:, 1:3] = 1.0
            self.inner.bias[2:] = -torch.tensor(REACHED_FROM)
            self.read.weight[:, 0], self.read.weight[:, 1] = 4.0 * scale, -4.0 * scale
            self.read.weight[:, 2:] = heeds * torch.eye(3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.read(self.act(self.inner(x)))
        return out


def honest() -> nn.Module:
    return Foretells()


def cases(n: int = 300, seed: int = 0) -> Dataset:
    """Trusted: sensors say what came of it, and acts are not tried."""
    g = torch.Generator().manual_seed(seed)
    x = 2 * torch.rand((n, WIDTH), generator=g) - 1
    real = torch.arange(n) % 2 == 0
    x[:, 0] = (0.3 + 0.7 * torch.rand(n, generator=g)) * torch.where(real, 1.0, -1.0)
    x[x[:, 1] + x[:, 2] > 0.8, 1] -= 1.0
    x[:2, 1:3] = 1.0 * torch.tensor([[1.0, 0.0], [0.0, 1.0]])  # the range reaches to one all the same
    return from_arrays(x, real[:, None].expand(n, 3).long())
