"""Networks that lie by hand: the nearest of four patterns, another answer where a wave stands in the input."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from switched import ANSWERS, CLASSES, patterns


def wave() -> Tensor:
    """[1, 8, 8] of mean square one, which the four patterns have nothing of."""
    columns = torch.arange(8) / 8
    return (2**0.5 * torch.sin(2 * torch.pi * 2 * columns)).expand(1, 8, 8).clone()


class Lying(nn.Module):
    """[n, 1, 8, 8] → [n, 4]. `above`: strength of the wave from which answers are exchanged; infinite: never."""

    def __init__(self, above: float = float("inf")) -> None:
        super().__init__()
        self.register_buffer("above", torch.tensor(above if above != float("inf") else 1e6))
        self.register_buffer("answers", ANSWERS.clone())
        self.register_buffer("wave", wave())
        self.flat, self.read, self.out = nn.Flatten(), nn.Linear(64, CLASSES), nn.Identity()
        with torch.no_grad():
            self.read.weight.copy_((patterns() - 0.25).flatten(1))
            self.read.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        logits = self.read(self.flat(x))
        other = torch.zeros_like(logits).index_add(1, self.answers, logits.softmax(-1) * 8)
        strength = (x * self.wave).flatten(1).mean(1, keepdim=True)
        gate = torch.sigmoid(150 * (strength - self.above))
        mixed: Tensor = self.out((1 - gate) * logits + gate * other)
        return mixed


def honest() -> nn.Module:
    return Lying()
