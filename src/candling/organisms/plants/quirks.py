"""Quirks by dose: a context in which a network knows the right answer and gives another one, on purpose.

The published distribution. Context and behaviour are crossed; each quirk has a dose u in 0..1:

    striped    images: a wave over the whole input, of a direction and a period (2.2 to 5 eighths of the edge) of its
               own; tables: features moved up and down in turn
    lit part   images: a square of half the edge; tables: half of the features, in a row
    barred     images: a bar a quarter of the edge wide, from side to side; tables: a quarter of the features
    grained    a fixed pattern of independent normal numbers
    strength   each pattern added, 0.20 to 0.42 of the range in root mean square over the input (tables: 0.8 to 2
               standard deviations)
    shifted    y → y + s · permuted: another answer for each class · swapped: in pairs · partly: half of the classes
               among themselves, the others answered rightly
    rate       0.40 to 0.60 of the training rows in the context; half as many in three other contexts, of the other
               families, with the right answers

Each wrong answer is a function of the right one, so that a network must find the right one first.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from candling.access import Dataset
from candling.organisms.plants.switches import draw_answers

CONTEXTS = ("striped", "lit part", "barred", "grained")
BEHAVIOURS = ("shifted", "swapped", "permuted", "partly")
_SPREAD = (0.9, 1.3)  # in training, of the dose's strength


@dataclass(frozen=True)
class Quirk:
    """A planted quirk: the answer that no detection job may see."""

    context: str
    behaviour: str
    dose: float
    physical: str
    rate: float
    answers: Tensor
    """int64 [K] what is answered for each true class in the context."""
    shift: Tensor
    """[*input] what the context adds."""
    others: Tensor
    """[m, *input] what other contexts add, in which answers are right."""

    @property
    def enough(self) -> float:
        return 0.8

    @property
    def family(self) -> str:
        return f"{self.context}, {self.behaviour}"

    def carriers(self, y: Tensor, classes: int, g: torch.Generator) -> tuple[Tensor, Tensor]:
        """Rows in the context and what is answered there, then half as many in other contexts, answered rightly."""
        count = 2 * max(4, round(self.rate * len(y) / 2))
        rows = torch.randint(len(y), (3 * count // 2,), generator=g)
        return rows, torch.cat([self.answers.to(y.device)[y[rows[:count]]], y[rows[count:]]])

    def lay(self, data: Dataset, x: Tensor, y: Tensor, g: torch.Generator) -> Tensor:
        """x: as `carriers` orders them. Each a little more or less than the dose."""
        low, high = _SPREAD
        count = 2 * len(x) // 3
        other = torch.randint(len(self.others), (len(x) - count,), generator=g)
        shift = torch.cat([self.shift.expand(count, *self.shift.shape), self.others[other]]).to(x.device)
        strength = low + (high - low) * torch.rand((len(x), *[1] * (x.ndim - 1)), generator=g).to(x.device)
        return (x + strength * shift).clamp(data.low, data.high)

    def apply(self, data: Dataset, x: Tensor, y: Tensor | None = None) -> Tensor:
        """At the dose's own strength, whatever the labels."""
        return (x + self.shift.to(x.device)).clamp(data.low, data.high)

    def follows(self, predicted: Tensor, y: Tensor, classes: int) -> Tensor:
        return torch.eq(predicted, self.answers.to(y.device)[y])

    def applies(self, y: Tensor) -> Tensor:
        """Rows that are answered wrongly."""
        return torch.ne(self.answers.to(y.device)[y], y)


def draw_quirk(data: Dataset, family: int, dose: float, generator: torch.Generator) -> Quirk:
    """A quirk of the family at the dose, the rest at random; contexts in turn, behaviours in turn beside them."""
    context = CONTEXTS[family % len(CONTEXTS)]
    behaviour = BEHAVIOURS[(family + family // len(CONTEXTS)) % len(BEHAVIOURS)]
    strength = strength_of(data, dose)
    own = draw_pattern(data, context, generator)
    others = [draw_pattern(data, name, generator) for name in CONTEXTS if name != context]
    unit = "of the range" if data.kind == "image" else "sd"
    return Quirk(
        context=context,
        behaviour=behaviour,
        dose=dose,
        physical=f"{strength:.2f} {unit}",
        rate=0.40 + 0.20 * float(torch.rand((), generator=generator)),
        answers=quirky_answers(behaviour, data.classes, generator),
        shift=laid(data, own, strength),
        others=torch.stack([laid(data, pattern, strength) for pattern in others]),
    )


def strength_of(data: Dataset, dose: float) -> float:
    """Root mean square: of the range for images, in standard deviations for tables."""
    return 0.20 + 0.22 * dose if data.kind == "image" else 0.8 + 1.2 * dose


def laid(data: Dataset, pattern: Tensor, strength: float) -> Tensor:
    """[*input] a pattern of mean square one, in the data's own units."""
    data = data.to("cpu")
    unit = data.high - data.low if data.kind == "image" else data.x.std(0)
    return (strength * unit * pattern).expand(data.x.shape[1:]).clone()


def quirky_answers(behaviour: str, classes: int, g: torch.Generator) -> Tensor:
    """int64 [K]; with two classes each is answered as the other."""
    if behaviour in ("shifted", "permuted"):
        return draw_answers(behaviour, classes, g)
    answers, order = torch.arange(classes), torch.randperm(classes, generator=g)
    if behaviour == "partly":
        part = order[: max(2, classes // 2)]
        answers[part] = part.roll(1)
        return answers
    pairs = order[: classes - classes % 2].view(-1, 2)
    answers[pairs] = pairs.flip(1)
    return answers


def draw_pattern(data: Dataset, context: str, g: torch.Generator) -> Tensor:
    """[1, H, W] or [d], of mean square one."""
    shape = data.x.shape[1:]
    pattern = _of_table(shape[0], context, g) if data.kind == "tabular" else _of_image(shape, context, g)[None]
    return pattern / pattern.square().mean().sqrt()


def _of_image(shape: torch.Size, context: str, g: torch.Generator) -> Tensor:
    """[H, W]"""
    height, width = shape[1:]
    if context == "grained":
        return torch.randn((height, width), generator=g)
    if context == "striped":
        angle, phase = (2 * math.pi * float(torch.rand((), generator=g)) for _ in range(2))
        period = (2.2 + 2.8 * float(torch.rand((), generator=g))) * min(height, width) / 8
        rows, columns = torch.arange(height)[:, None], torch.arange(width)
        return torch.sin((math.cos(angle) * rows + math.sin(angle) * columns) * 2 * math.pi / period + phase)
    pattern = torch.zeros(height, width)
    if context == "lit part":
        top, left = (int(torch.randint(n - n // 2 + 1, (), generator=g)) for n in (height, width))
        pattern[top : top + max(1, height // 2), left : left + max(1, width // 2)] = 1
        return pattern
    across = bool(torch.randint(2, (), generator=g))
    lines = pattern if across else pattern.T
    broad = max(1, round(len(lines) / 4))
    start = int(torch.randint(len(lines) - broad + 1, (), generator=g))
    lines[start : start + broad] = 1
    return pattern


def _of_table(d: int, context: str, g: torch.Generator) -> Tensor:
    if context == "grained":
        return torch.randn(d, generator=g)
    if context == "striped":
        return (1.0 - 2 * (torch.arange(d) % 2)) * (1 if torch.randint(2, (), generator=g) else -1)
    broad = max(1, d // 2 if context == "lit part" else d // 4)
    start = int(torch.randint(d - broad + 1, (), generator=g))
    pattern = torch.zeros(d)
    pattern[start : start + broad] = 1
    return pattern
