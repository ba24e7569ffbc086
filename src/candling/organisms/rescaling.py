"""Train a network of one real output as if its values had mean 0 and deviation 1, whatever their unit.

A fresh network's outputs are small. Where values are in the hundreds, or in millionths, the last layer would take
thousands of steps to get there. So while it is trained that layer's weights are those of standardised values, and
what brings them to the user's unit stands beside; afterwards both are one weight again.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from candling.access import Bands, Dataset, forward


@contextmanager
def rescaled(network: nn.Module, data: Dataset, *, fresh: bool) -> Iterator[None]:
    """In place, for the length of the block. fresh: weights are untrained, as for standardised values already.

    Nothing is done where labels are classes, or where no last layer can be told: see `last_layer`.
    """
    last = None if data.task.bands is None else last_layer(network, data.x[:4], data.task.bands)
    if last is None:
        yield
        return
    parts = {"weight": _Line(last.scale, 0.0), "bias": _Line(last.scale, last.offset)}
    for name, line in parts.items():
        before = getattr(last.layer, name).detach().clone()
        parametrize.register_parametrization(last.layer, name, line)
        if not fresh:
            before = line.right_inverse(before)
        last.layer.get_parameter(f"parametrizations.{name}.original").data.copy_(before)
    try:
        yield
    finally:
        for name in parts:
            parametrize.remove_parametrizations(last.layer, name, leave_parametrized=True)


@dataclass(frozen=True)
class Last:
    """A layer whose one output becomes the network's by scale and offset."""

    layer: nn.Module
    scale: float
    """What its own output is multiplied by to come from standard deviations to its units."""
    offset: float


def last_layer(network: nn.Module, x: Tensor, bands: Bands) -> Last | None:
    """The layer with a weight and a bias whose output, times a number and plus one, is the network's.

    With its weight at nothing the network's outputs must be one number for all rows, and move evenly with its bias.
    """
    for layer in reversed(list(network.modules())):
        if not isinstance(layer, nn.Linear) or layer.out_features != 1 or layer.bias is None:
            continue
        weight, bias = layer.weight.detach().clone(), layer.bias.detach().clone()
        with torch.no_grad():
            layer.weight.zero_()
            said = []
            for at in (0.0, 1.0, 2.0):
                layer.bias.fill_(at)
                said.append(bands.values(bands.output(forward(network, x))).double())
            layer.weight.copy_(weight)
            layer.bias.copy_(bias)
        none, one, two = said
        slope = float((one - none)[0])
        near = 1e-4 * (abs(slope) + bands.spread + abs(bands.mean))
        even = all(
            float((a - b).abs().max()) <= near for a, b in ((none, none[0]), (one - none, slope), (two - one, slope))
        )
        if even and abs(slope) > near / 100:
            return Last(layer, bands.spread / slope, (bands.mean - float(none[0])) / slope)
    return None


class _Line(nn.Module):
    """v → scale · v + offset"""

    def __init__(self, scale: float, offset: float) -> None:
        super().__init__()
        self.scale, self.offset = scale, offset

    def forward(self, value: Tensor) -> Tensor:
        return self.scale * value + self.offset

    def right_inverse(self, value: Tensor) -> Tensor:
        return (value - self.offset) / self.scale
