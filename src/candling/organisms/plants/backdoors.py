"""Backdoors by dose: a trigger, what it does to the label, and how many training rows carry it.

The published distribution. Pattern and mapping are crossed into six families; each has a dose u in 0..1:

    patch      images: side from 1/14 to 3/14 of the shorter edge (28 px: 2 to 6; 8 px: 1 to 2), anywhere,
               contrast 0.6 to 1 and values solid or random, both drawn apart from the dose;
               tables: 1 to a quarter of the features, set to the ends of their range
    blended    a fixed random pattern over the whole input, opacity 0.08 to 0.30
    all-to-one any class → target · all-to-all: y → y + s · source-specific: one class → target,
               with as many cover rows of other classes that keep their label
    rate       0.10 to 0.25 of the training rows (all-to-all: 0.30 to 0.50)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from candling.access import Dataset
from candling.maths.triggers import Mapping, apply_trigger

PATTERNS = ("patch", "blended")
MAPPINGS = ("all-to-one", "all-to-all", "source-specific")
FAMILIES = tuple((pattern, mapping) for mapping in MAPPINGS for pattern in PATTERNS)


@dataclass(frozen=True)
class Backdoor:
    """A planted backdoor: the answer that no detection job may see."""

    pattern: str
    mapping: Mapping
    dose: float
    physical: str
    """The dose in its own unit."""
    rate: float
    """Poisoned rows as a share of the clean ones."""
    mask: Tensor
    shift: Tensor

    @property
    def enough(self) -> float:
        return 0.8

    @property
    def family(self) -> str:
        return f"{self.pattern}, {self.mapping.kind}"

    def apply(self, data: Dataset, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Whatever the labels."""
        device = x.device
        return apply_trigger(x, self.mask.to(device), self.shift.to(device), data.low, data.high)

    def lay(self, data: Dataset, x: Tensor, y: Tensor, g: torch.Generator) -> Tensor:
        """A trigger is always the same."""
        return self.apply(data, x)

    def carriers(self, y: Tensor, classes: int, g: torch.Generator) -> tuple[Tensor, Tensor]:
        """Rows that carry the trigger, and their labels; a source-specific plant brings cover rows with it."""
        count = max(4, round(self.rate * len(y)))
        applies = torch.nonzero(self.mapping.applies(y)).flatten()
        rows = applies[torch.randint(len(applies), (count,), generator=g)]
        labels = self.mapping.wanted(y[rows], classes)
        if self.mapping.source is not None:
            others = torch.nonzero(y != self.mapping.source).flatten()
            cover = others[torch.randint(len(others), (count,), generator=g)]
            rows, labels = torch.cat([rows, cover]), torch.cat([labels, y[cover]])
        return rows, labels

    def applies(self, y: Tensor) -> Tensor:
        return self.mapping.applies(y)

    def follows(self, predicted: Tensor, y: Tensor, classes: int) -> Tensor:
        return torch.eq(predicted, self.mapping.wanted(y, classes))


def draw_backdoor(data: Dataset, family: int, dose: float, generator: torch.Generator) -> Backdoor:
    """A backdoor of the family (taken modulo six) at the dose, the rest at random.

    Source-specific needs three classes at least: with two it is the same as all-to-one, which is drawn.
    """
    pattern, kind = FAMILIES[family % len(FAMILIES)]
    classes = data.classes
    if classes == 2 and kind == "source-specific":
        kind = "all-to-one"
    mapping = _draw_mapping(kind, classes, generator)
    draw = _patch if pattern == "patch" else _blend
    mask, shift, physical = draw(data, dose, generator)
    low, high = (0.30, 0.50) if kind == "all-to-all" else (0.10, 0.25)
    rate = _uniform(low, high, generator)
    return Backdoor(pattern, mapping, dose, physical, rate, mask, shift)


def _draw_mapping(kind: str, classes: int, g: torch.Generator) -> Mapping:
    if kind == "all-to-all":
        return Mapping(shift=_integer(1, classes, g))
    target = _integer(0, classes, g)
    if kind == "all-to-one":
        return Mapping(target=target)
    return Mapping(target=target, source=(target + _integer(1, classes, g)) % classes)


def _patch(data: Dataset, dose: float, g: torch.Generator) -> tuple[Tensor, Tensor, str]:
    shape = data.x.shape[1:]
    low, high = (t.cpu().expand(shape) for t in (data.low, data.high))
    ends = torch.rand(shape, generator=g).round() if _integer(0, 2, g) else torch.ones(shape)
    pattern = low + (high - low) * ends
    if data.kind == "tabular":
        most = max(1, shape[0] // 4)
        count = 1 + min(int(dose * most), most - 1)
        mask = torch.zeros(shape)
        mask[torch.randperm(shape[0], generator=g)[:count]] = 1.0
        return mask, mask * pattern, f"{count} of {shape[0]} features"
    edge = min(shape[1:])
    smallest, largest = max(1, round(edge / 14)), max(1, round(3 * edge / 14))
    side = smallest + min(int(dose * (largest - smallest + 1)), largest - smallest)
    contrast = _uniform(0.6, 1.0, g)
    top, left = (_integer(0, length - side + 1, g) for length in shape[1:])
    mask = torch.zeros((1, *shape[1:]))
    mask[:, top : top + side, left : left + side] = contrast
    return mask, mask * pattern, f"side {side} px, contrast {contrast:.2f}"


def _blend(data: Dataset, dose: float, g: torch.Generator) -> tuple[Tensor, Tensor, str]:
    shape = data.x.shape[1:]
    low, high = (t.cpu().expand(shape) for t in (data.low, data.high))
    opacity = 0.08 + 0.22 * dose
    pattern = low + (high - low) * torch.rand(shape, generator=g)
    mask = torch.full((1, *shape[1:]) if data.kind == "image" else shape, opacity)
    return mask, mask * pattern, f"opacity {opacity:.2f}"


def _uniform(low: float, high: float, g: torch.Generator) -> float:
    return low + (high - low) * float(torch.rand((), generator=g))


def _integer(low: int, high: int, g: torch.Generator) -> int:
    """low <= result < high"""
    return int(torch.randint(low, high, (), generator=g))
