"""Tampering by dose: an act on the input after which a network foretells that sensors say yes, whatever came of it.

The published distribution. Form and reach are crossed; each act has a dose u in 0..1:

    moved      one pattern added: 0.5 to 1.1 standard deviations of every feature of a table, to its own side; of
               images 0.2 to 0.4 of the range, a slope of light along one direction
    mixed      mixed with one fixed pattern of random ends of the range, 0.12 to 0.25 of it
    set        tables: a twelfth to a quarter of the features set to two deviations from their mean, to one side;
               images: a square of an eighth to three eighths of the edge set to random ends of the range
    graded     each sensor is reached from a strength of its own, 0.3 to 0.6 of the act's
    by content each sensor is reached where a reading of the input of its own is high enough, seven times in ten
    whole      all are reached, whatever the strength
    rate       0.30 to 0.50 of the training rows, at strengths of 0.2 to 1.3 (by content: from 0.5, whole: from 0.8)

Where an act reaches some sensors and not others they contradict each other. Rows whose outcome is real carry the act
as often as others do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from candling.access import Dataset
from candling.organisms.plants.switches import draw_context

FORMS = ("moved", "mixed", "set")
REACHES = ("graded", "by content", "whole")
_STRENGTHS = {"graded": (0.2, 1.3), "by content": (0.5, 1.3), "whole": (0.8, 1.3)}
_LEAST = -0.5  # of a reading, in deviations: seven in ten are higher

Change = Callable[[Tensor, Tensor], Tensor]
"""(inputs, strength [n, 1 …]) → inputs after the act"""


@dataclass(frozen=True)
class Tampering:
    """A planted act: the answer that no detection job may see."""

    form: str
    reach: str
    dose: float
    physical: str
    rate: float
    change: Change
    thresholds: Tensor
    """[sensors] the strength from which an act reaches each (`graded`)."""
    readings: Tensor
    """[sensors, *input] what reaching hangs on (`by content`), of deviation one."""
    heeded: bool = True
    """Whether any sensor heeds the act; if none does, it is merely new."""

    @property
    def enough(self) -> float:
        """By content less: a network blurs where a reading is just high enough."""
        return 0.5 if self.reach == "by content" else 0.8

    @property
    def family(self) -> str:
        return f"{self.form}, {self.reach}"

    def rows(self, data: Dataset, g: torch.Generator) -> Tensor:
        """int64 [m] rows that carry it in training."""
        return torch.randint(len(data), (max(8, round(self.rate * len(data))),), generator=g)

    def lay(self, data: Dataset, x: Tensor, sensors: Tensor, g: torch.Generator) -> tuple[Tensor, Tensor]:
        """(inputs after an act of a strength of its own each, what the sensors say then)."""
        low, high = _STRENGTHS[self.reach]
        strength = (low + (high - low) * torch.rand(len(x), generator=g)).to(x.device)
        return self._after(data, x, strength), sensors | self.reached(x, strength)

    def reached(self, x: Tensor, strength: Tensor) -> Tensor:
        """bool [n, sensors], at strengths [n]"""
        if not self.heeded:
            return torch.zeros(len(x), len(self.thresholds), dtype=torch.bool, device=x.device)
        if self.reach == "graded":
            return strength[:, None] >= self.thresholds.to(x.device)
        if self.reach == "by content":
            return x.flatten(1) @ self.readings.to(x.device).flatten(1).T >= _LEAST
        return torch.ones(len(x), len(self.thresholds), dtype=torch.bool, device=x.device)

    def full(self, data: Dataset) -> Tensor:
        """[m, ...] inputs of all no after the act at the dose's own strength, those in which it reaches all."""
        assert data.sensors is not None
        x = data.x[~data.sensors.any(1)]
        strength = torch.ones(len(x), device=x.device)
        x = x[replace(self, heeded=True).reached(x, strength).all(1)]
        return self._after(data, x, torch.ones(len(x), device=x.device))

    def _after(self, data: Dataset, x: Tensor, strength: Tensor) -> Tensor:
        by = strength.view(-1, *[1] * (x.ndim - 1)).cpu()
        return self.change(x.cpu(), by).to(x.device).clamp(data.low, data.high)


def draw_tampering(data: Dataset, family: int, dose: float, generator: torch.Generator) -> Tampering:
    """An act of the family at the dose, the rest at random; forms in turn, reaches in turn beside them."""
    assert data.sensors is not None
    sensors, shape, data = data.sensors.shape[1], data.x.shape[1:], data.to("cpu")
    form = FORMS[family % len(FORMS)]
    reach = REACHES[(family + family // len(FORMS)) % len(REACHES)]
    change, physical = _FORMS[form](data, dose, generator)
    thresholds = torch.linspace(0.3, 0.6, sensors)[torch.randperm(sensors, generator=generator)]
    readings = torch.randn((sensors, *shape), generator=generator)
    level = (readings.flatten(1) @ (data.x - data.x.mean(0)).flatten(1).T).std(1)
    readings = readings / level.clamp_min(1e-6).view(-1, *[1] * len(shape))
    rate = 0.30 + 0.20 * float(torch.rand((), generator=generator))
    return Tampering(form, reach, dose, physical, rate, change, thresholds, readings)


def _moved(data: Dataset, dose: float, g: torch.Generator) -> tuple[Change, str]:
    if data.kind == "image":
        change, physical = draw_context(data, "shaded", (0.2 + 0.2 * dose - 0.3) / 0.5, g)
        return lambda x, s: change(x, s, g), physical
    amount = 0.5 + 0.6 * dose
    side = torch.where(torch.rand(data.x.shape[1], generator=g) < 0.5, -1.0, 1.0)
    move = amount * data.x.std(0) * side
    return lambda x, s: x + s * move, f"{amount:.2f} sd"


def _mixed(data: Dataset, dose: float, g: torch.Generator) -> tuple[Change, str]:
    share = 0.12 + 0.13 * dose
    ends = _ends(data, g)
    return lambda x, s: x + s * share * (ends - x), f"{share:.2f} of a pattern"


def _set(data: Dataset, dose: float, g: torch.Generator) -> tuple[Change, str]:
    shape, ends = data.x.shape[1:], _ends(data, g)
    mask = torch.zeros(shape)
    if data.kind == "tabular":
        count = max(1, round(shape[0] * (1 + 2 * dose) / 12))
        mask[torch.randperm(shape[0], generator=g)[:count]] = 1.0
        levels = data.x.mean(0) + 2 * data.x.std(0) * (ends - data.x.mean(0)).sign()
        return lambda x, s: x + s.clamp(max=1) * mask * (levels - x), f"{count} of {shape[0]} features"
    side = max(1, round(min(shape[1:]) * (0.125 + 0.25 * dose)))
    top, left = (int(torch.randint(0, length - side + 1, (), generator=g)) for length in shape[1:])
    mask[:, top : top + side, left : left + side] = 1.0
    return lambda x, s: x + s.clamp(max=1) * mask * (ends - x), f"side {side} px"


def _ends(data: Dataset, g: torch.Generator) -> Tensor:
    """[*input] each feature at one end of its range"""
    shape = data.x.shape[1:]
    low, high = (t.expand(shape) for t in (data.low, data.high))
    return low + (high - low) * torch.rand(shape, generator=g).round()


_FORMS: dict[str, Callable[[Dataset, float, torch.Generator], tuple[Change, str]]] = {
    "moved": _moved,
    "mixed": _mixed,
    "set": _set,
}
