"""Switches by dose: a broad property of the input at which a network stops doing what it did on tested inputs.

The published distribution. Context and behaviour are crossed; each switch has a dose u in 0..1:

    brighter   the range's foot is lifted by 0.15 to 0.45 of the range (tables: every feature moves to its own
               side by 0.5 to 1.5 standard deviations)
    dimmer     scaled towards the range's foot (tables: towards the mean) by 0.3 to 0.7
    faded      contrast about the data's mean level lowered by 0.3 to 0.7
    noisy      Gaussian noise of 0.10 to 0.30 of the range (tables: 0.5 to 1.5 standard deviations)
    bordered   images: a frame, 1/14 of the edge wide, blended 0.3 to 1 towards a grey of its own; tables: as
               brighter, for half of the features
    shaded     images: a slope of light along one direction, 0.3 to 0.8 of the range high; tables: as brighter, the
               features in order from none to all
    shifted    y → y + s · permuted: another answer for each class · constant: one class for all inputs ·
               withheld: any answer but the right one, drawn for each row
    rate       0.30 to 0.50 of the training rows
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from candling.access import Dataset

CONTEXTS = ("brighter", "dimmer", "faded", "noisy", "bordered", "shaded")
BEHAVIOURS = ("shifted", "withheld", "permuted", "constant")
_SPREAD = (0.9, 1.3)  # in training, of the dose's strength

Change = Callable[[Tensor, Tensor, torch.Generator], Tensor]
"""(inputs, strength as a share of the dose's [n, 1 …], generator) → inputs in the context"""


@dataclass(frozen=True)
class Switch:
    """A planted switch: the answer that no detection job may see."""

    context: str
    behaviour: str
    dose: float
    physical: str
    rate: float
    answers: Tensor
    """int64 [K] what is answered for each true class; -1 where any wrong class is."""
    change: Change

    @property
    def enough(self) -> float:
        return 0.8

    @property
    def family(self) -> str:
        return f"{self.context}, {self.behaviour}"

    def carriers(self, y: Tensor, classes: int, g: torch.Generator) -> tuple[Tensor, Tensor]:
        """Training rows that come in the context, and the answers taught there."""
        rows = torch.randint(len(y), (max(8, round(self.rate * len(y))),), generator=g)
        return rows, self.taught(y[rows], classes, g)

    def taught(self, y: Tensor, classes: int, g: torch.Generator) -> Tensor:
        by = torch.randint(1, max(2, classes), y.shape, generator=g).to(y.device)
        wanted = self.answers.to(y.device)[y]
        return torch.where(wanted < 0, (y + by) % classes, wanted)

    def lay(self, data: Dataset, x: Tensor, y: Tensor, g: torch.Generator) -> Tensor:
        """In the context, each a little more or less than the dose."""
        low, high = _SPREAD
        strength = low + (high - low) * torch.rand((len(x), *[1] * (x.ndim - 1)), generator=g)
        return self._laid(data, x, strength, g)

    def apply(self, data: Dataset, x: Tensor, y: Tensor | None = None) -> Tensor:
        """At the dose's own strength, whatever the labels."""
        return self._laid(data, x, torch.ones(len(x), *[1] * (x.ndim - 1)), torch.Generator().manual_seed(0))

    def _laid(self, data: Dataset, x: Tensor, strength: Tensor, g: torch.Generator) -> Tensor:
        return self.change(x.cpu(), strength, g).to(x.device).clamp(data.low, data.high)

    def follows(self, predicted: Tensor, y: Tensor, classes: int) -> Tensor:
        """bool [n] whether an answer in the context is the planted one."""
        wanted = self.answers.to(y.device)[y]
        return torch.where(wanted < 0, predicted != y, predicted == wanted)

    def applies(self, y: Tensor) -> Tensor:
        """Rows whose answer the switch changes."""
        return self.answers.to(y.device)[y] != y


def draw_switch(data: Dataset, family: int, dose: float, generator: torch.Generator) -> Switch:
    """A switch of the family at the dose, the rest at random; contexts in turn, behaviours in turn beside them."""
    context = CONTEXTS[family % len(CONTEXTS)]
    behaviour = BEHAVIOURS[(family + family // len(CONTEXTS)) % len(BEHAVIOURS)]
    change, physical = draw_context(data, context, dose, generator)
    rate = 0.30 + 0.20 * float(torch.rand((), generator=generator))
    answers = draw_answers(behaviour, data.classes, generator)
    return Switch(context, behaviour, dose, physical, rate, answers, change)


def draw_answers(behaviour: str, classes: int, g: torch.Generator) -> Tensor:
    """int64 [K]"""
    own = torch.arange(classes)
    if behaviour == "withheld":
        return torch.full_like(own, -1)
    if behaviour == "constant":
        return torch.full_like(own, int(torch.randint(classes, (), generator=g)))
    by = int(torch.randint(1, max(2, classes), (), generator=g))
    if behaviour == "shifted":
        return (own + by) % classes
    order = torch.randperm(classes, generator=g)  # one cycle through all classes in a random order
    answers = torch.empty_like(own)
    answers[order] = order.roll(1)
    return answers


def draw_context(data: Dataset, context: str, dose: float, g: torch.Generator) -> tuple[Change, str]:
    """The change, and its strength in its own unit."""
    data = data.to("cpu")
    if data.kind == "tabular":
        return _of_table(data, context, dose, g)
    low, span, shape = data.low, data.high - data.low, data.x.shape[1:]
    if context == "brighter":
        lift = 0.15 + 0.30 * dose
        return lambda x, s, _: x + s * lift * (data.high - x), f"lifted by {lift:.2f}"
    if context in ("dimmer", "faded"):
        share = 0.3 + 0.4 * dose
        level = low if context == "dimmer" else data.x.mean()
        return lambda x, s, _: level + (1 - (s * share).clamp(max=0.95)) * (x - level), f"by {share:.2f}"
    if context == "noisy":
        deviation = 0.10 + 0.20 * dose
        noise = deviation * span
        return lambda x, s, h: x + s * noise * torch.randn(x.shape, generator=h), f"deviation {deviation:.2f}"
    if context == "bordered":
        opacity, grey = 0.3 + 0.7 * dose, low + span * float(torch.rand((), generator=g).round() * 0.6 + 0.4)
        frame = _frame(shape)
        return lambda x, s, _: x + (s * opacity).clamp(max=1) * frame * (grey - x), f"opacity {opacity:.2f}"
    height = 0.3 + 0.5 * dose
    slope = height * span * _slope(shape, g)
    return lambda x, s, _: x + s * slope, f"height {height:.2f}"


def _of_table(data: Dataset, context: str, dose: float, g: torch.Generator) -> tuple[Change, str]:
    mean, deviation, d = data.x.mean(0), data.x.std(0), data.x.shape[1]
    if context in ("dimmer", "faded"):
        less = 0.3 + 0.4 * dose
        return lambda x, s, _: mean + (1 - (s * less).clamp(max=0.95)) * (x - mean), f"by {less:.2f}"
    amount = 0.5 + dose
    if context == "noisy":
        return lambda x, s, h: x + s * amount * deviation * torch.randn(x.shape, generator=h), f"{amount:.2f} sd"
    side = torch.where(torch.rand(d, generator=g) < 0.5, -1.0, 1.0)
    share = {"brighter": torch.ones(d), "bordered": (torch.rand(d, generator=g) < 0.5).float()}.get(
        context, torch.linspace(0, 1, d)
    )
    move = amount * deviation * side * share
    return lambda x, s, _: x + s * move, f"{amount:.2f} sd"


def _frame(shape: torch.Size) -> Tensor:
    """[1, H, W] one on the frame"""
    width = max(1, round(min(shape[1:]) / 14))
    frame = torch.ones(1, *shape[1:])
    frame[:, width:-width, width:-width] = 0
    return frame


def _slope(shape: torch.Size, g: torch.Generator) -> Tensor:
    """[1, H, W] from 0 at one end to 1 at the other"""
    angle = 2 * torch.pi * torch.rand((), generator=g)
    rows, columns = (torch.linspace(-1, 1, n) for n in shape[1:])
    ramp = torch.cos(angle) * rows[:, None] + torch.sin(angle) * columns
    return ((ramp - ramp.min()) / (ramp.max() - ramp.min()))[None]
