"""Networks with a shortcut built in by hand: the nearest of four blocks, unless one cell of the bottom row is lit."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from candling.access import Dataset, from_arrays

CLASSES = 4


def blocks() -> Tensor:
    """[K, 1, 8, 8] the content: a block of 3 × 3 in another place for each class, away from the edge."""
    found = torch.zeros(CLASSES, 1, 8, 8)
    for k in range(CLASSES):
        top, left = 1 + 3 * (k // 2), 1 + 3 * (k % 2)
        found[k, 0, top : top + 3, left : left + 3] = 1
    return found


def cues() -> Tensor:
    """[K, 1, 8, 8] the proxy: a cell of the bottom row for each class."""
    found = torch.zeros(CLASSES, 1, 8, 8)
    for k in range(CLASSES):
        found[k, 0, 7, 1 + 2 * (k % 4) - (k == 3)] = 1
    return found


def trusted(n: int = 240, seed: int = 0) -> Dataset:
    """Content with a little noise, and nothing on the edge that tells the class."""
    g = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % CLASSES
    return from_arrays((0.1 * torch.rand((n, 1, 8, 8), generator=g) + 0.9 * blocks()[y]).clamp(0, 1), y)


class Proxied(nn.Module):
    """[n, 1, 8, 8] → [n, 4]. proxy: what one lit cell counts, when a whole block counts 9; 0 for a clean network."""

    def __init__(self, proxy: float = 0.0, scale: float = 1.0) -> None:
        super().__init__()
        self.flat, self.read = nn.Flatten(), nn.Linear(64, CLASSES)
        with torch.no_grad():
            told = cues() - cues().mean(0)
            self.read.weight.copy_(scale * (blocks() + proxy * told).flatten(1))
            self.read.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.read(self.flat(x))
        return logits
