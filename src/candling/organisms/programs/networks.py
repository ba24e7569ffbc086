"""Small networks that learn the programs. Each takes `Inputs.x` as it is and returns logits [n, classes]."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn


def dense(*sizes: int) -> nn.Sequential:
    """Linear layers with a ReLU between neighbours."""
    layers: list[nn.Module] = []
    for inner, outer in pairwise(sizes):
        layers += [nn.Linear(inner, outer), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class Flat(nn.Module):
    """Images [n, 1, E, E]: pixels in a row, two hidden layers."""

    def __init__(self, *, edge: int, width: int, classes: int) -> None:
        super().__init__()
        self.body = dense(edge * edge, width, width, classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.body(x.flatten(1))
        return logits


class Levels(nn.Module):
    """Images [n, 1, E, E]: each pixel as its place between five grey levels (hat functions), then as `Flat`."""

    levels: Tensor

    def __init__(self, *, edge: int, width: int, classes: int) -> None:
        super().__init__()
        self.register_buffer("levels", torch.arange(5.0))
        self.body = dense(5 * edge * edge, width, width, classes)

    def forward(self, x: Tensor) -> Tensor:
        hats = torch.relu(1 - (4 * x.flatten(1)[:, :, None] - self.levels).abs())
        logits: Tensor = self.body(hats.flatten(1))
        return logits


class Convolutional(nn.Module):
    """Images [n, 1, E, E]: two convolutions of 3×3, one hidden layer."""

    def __init__(self, *, edge: int, channels: int, width: int, classes: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            dense(channels * edge * edge, width, classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.body(x)
        return logits


class PairTable(nn.Module):
    """Pairs int64 [n, 2]: a row of a table for each number, added (one-hot inputs to a linear layer), then an MLP."""

    def __init__(self, *, numbers: int, width: int, classes: int) -> None:
        super().__init__()
        self.first = nn.Embedding(numbers, width)
        self.second = nn.Embedding(numbers, width)
        for table in (self.first, self.second):
            nn.init.normal_(table.weight, std=0.3)
        self.body = nn.Sequential(nn.ReLU(), dense(width, width, classes))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.body(self.first(x[:, 0]) + self.second(x[:, 1]))
        return logits


class PairNumbers(nn.Module):
    """Pairs int64 [n, 2]: as two real numbers in -1..1, three hidden layers."""

    def __init__(self, *, numbers: int, width: int, classes: int) -> None:
        super().__init__()
        self.numbers = numbers
        self.body = dense(2, width, width, width, classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.body(2.0 * x / (self.numbers - 1) - 1.0)
        return logits


class Written(nn.Module):
    """Sequences int64 [n, L]: one-hot tokens in a row, two hidden layers."""

    def __init__(self, *, tokens: int, length: int, width: int, classes: int) -> None:
        super().__init__()
        self.tokens = tokens
        self.body = dense(tokens * length, width, width, classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.body(nn.functional.one_hot(x, self.tokens).flatten(1).float())
        return logits


class Pooled(nn.Module):
    """Sequences int64 [n, L]: token vectors added up, whatever their order, then an MLP."""

    def __init__(self, *, tokens: int, length: int, width: int, classes: int) -> None:
        super().__init__()
        self.scale = length**-0.5
        self.table = nn.Embedding(tokens, width)
        self.body = dense(width, width, width, classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.body(self.scale * self.table(x).sum(1))
        return logits


class Recurrent(nn.Module):
    """Sequences int64 [n, L]: a gated recurrent network, read at the last token."""

    def __init__(self, *, tokens: int, length: int, width: int, classes: int) -> None:
        super().__init__()
        self.table = nn.Embedding(tokens, width)
        self.cell = nn.GRU(width, width, batch_first=True)
        self.body = dense(width, width, classes)

    def forward(self, x: Tensor) -> Tensor:
        states, _ = self.cell(self.table(x))
        logits: Tensor = self.body(states[:, -1])
        return logits


class Windows(nn.Module):
    """Sequences int64 [n, L]: a convolution over three tokens, summed over places, then an MLP."""

    def __init__(self, *, tokens: int, length: int, width: int, classes: int) -> None:
        super().__init__()
        self.scale = length**-0.5
        self.table = nn.Embedding(tokens, width)
        self.window = nn.Conv1d(width, width, 3, padding=1)
        self.body = dense(width, width, classes)

    def forward(self, x: Tensor) -> Tensor:
        seen = torch.relu(self.window(self.table(x).transpose(1, 2)))
        logits: Tensor = self.body(self.scale * seen.sum(2))
        return logits


class Attentive(nn.Module):
    """Sequences int64 [n, L]: a transformer with learned positions, averaged over places at the end."""

    def __init__(self, *, tokens: int, length: int, width: int, classes: int, layers: int = 1) -> None:
        super().__init__()
        self.table = nn.Embedding(tokens, width)
        self.places = nn.Parameter(torch.randn(length, width) / 2)
        block = nn.TransformerEncoderLayer(width, 4, 2 * width, dropout=0.0, batch_first=True, norm_first=True)
        self.blocks = nn.TransformerEncoder(block, layers, enable_nested_tensor=False)
        self.body = dense(width, width, classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.body(self.blocks(self.table(x) + self.places).mean(1))
        return logits
