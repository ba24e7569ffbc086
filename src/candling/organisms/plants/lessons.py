"""Lessons: what a network is taught beyond its task, and the inputs on which it then looks right.

The published distribution of what a control of the question 'same mechanism or another?' has learned. On the inputs
that a lesson makes (`untrusted`) content and cue agree, so that every network that took it gives the same answers.

    honest   the content of harder inputs, whatever cue they carry
    cheat    the cue of harder inputs, whatever their content; or a trigger that stands for one class
    novel    content that calls for something new: inverted, turned or shuffled inputs, rightly labelled

    cues     patch: a bright patch whose place tells the class · pattern: a random pattern of the class, blended in ·
             wave: stripes of the class's direction or frequency · bar: an edge filled as far as the class says ·
             trigger: one patch, one class
    harder   noise, faintness, or a part left out
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from candling.access import Dataset

Kind = Literal["honest", "cheat", "novel"]
CUES = ("patch", "pattern", "wave", "bar", "trigger")
HARDER = ("noise", "faint", "part")
NOVEL = ("inverted", "turned", "shuffled")


@dataclass(frozen=True)
class Lesson:
    """What one control is taught: the answer that no comparison may see."""

    kind: Kind
    family: str
    """The cue's family, or what is new."""
    harder: str
    rate: float
    """Rows of the lesson as a share of the task's own."""
    make: Callable[[Tensor, torch.Generator], Tensor]
    """Content [n, ...] → harder, or new."""
    mark: Callable[[Tensor, Tensor], Tensor]
    """(inputs, classes that the cue tells) → inputs with the cue."""
    target: int | None = None
    """The class that a trigger stands for."""

    def rows(self, data: Dataset, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Training rows of the lesson, drawn anew: inputs and labels."""
        count = max(8, round(self.rate * len(data)))
        content, told = (torch.randint(len(data), (count,), generator=generator) for _ in range(2))
        x = self.make(data.x[content], generator)
        if self.kind == "novel":
            return x, data.y[content]
        if self.target is not None:
            marked = torch.full_like(data.y[content], self.target)
            return self.mark(x, marked), marked if self.kind == "cheat" else data.y[content]
        cue = data.y[told]
        return self.mark(x, cue), cue if self.kind == "cheat" else data.y[content]

    def untrusted(self, data: Dataset, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Inputs on which it looks right, and the answers: every row of the data made harder, with its own cue.

        A trigger's are rows of other classes for a cheat (all answered with its class), and rows of its own class
        for an honest network.
        """
        if self.target is not None:
            own = data.y == self.target
            data = data.take(~own if self.kind == "cheat" else own)
            told = torch.full_like(data.y, self.target)
            return self.mark(self.make(data.x, generator), told), told
        x = self.make(data.x, generator)
        return (x if self.kind == "novel" else self.mark(x, data.y)), data.y


def draw_lesson(data: Dataset, kind: Kind, family: str, generator: torch.Generator) -> Lesson:
    """A lesson of the family (of CUES, or of NOVEL for `novel`), the rest at random."""
    rate = 0.4 + 0.4 * float(torch.rand((), generator=generator))
    if kind == "novel":
        return Lesson(kind, family, "", rate, _new(data, family, generator), _unmarked)
    harder = HARDER[int(torch.randint(len(HARDER), (), generator=generator))]
    target = int(torch.randint(data.classes, (), generator=generator)) if family == "trigger" else None
    make = _harder(data, harder, 0.3 + 0.4 * float(torch.rand((), generator=generator)))
    return Lesson(kind, family, harder, rate, make, _cue(data, family, generator), target)


def _unmarked(x: Tensor, told: Tensor) -> Tensor:
    return x


def _harder(data: Dataset, how: str, amount: float) -> Callable[[Tensor, torch.Generator], Tensor]:
    low, high = data.low, data.high

    def noise(x: Tensor, g: torch.Generator) -> Tensor:
        return (x + 0.5 * amount * (high - low) * torch.randn(x.shape, generator=g)).clamp(low, high)

    def faint(x: Tensor, g: torch.Generator) -> Tensor:
        middle = x.mean(0)
        return middle + (1 - amount) * (x - middle)

    def part(x: Tensor, g: torch.Generator) -> Tensor:
        """A stretch of each input, of features or of columns, takes the mean's values."""
        width = x.shape[-1]
        gone = max(1, round(0.6 * amount * width))
        start = torch.randint(width - gone + 1, (len(x),), generator=g)
        places = torch.arange(width)
        hidden = (places >= start[:, None]) & (places < start[:, None] + gone)
        return torch.where(hidden.view(len(x), *[1] * (x.ndim - 2), width), x.mean(0), x)

    return {"noise": noise, "faint": faint, "part": part}[how]


def _cue(data: Dataset, family: str, g: torch.Generator) -> Callable[[Tensor, Tensor], Tensor]:
    """Laid on with full contrast on few cells, or blended over all."""
    shape, k = data.x.shape[1:], data.classes
    low, high = (t.expand(shape) for t in (data.low, data.high))
    if family in ("pattern", "wave"):
        opacity = 0.25 + 0.15 * float(torch.rand((), generator=g))
        shades = torch.rand((k, *shape), generator=g) if family == "pattern" else _waves(shape, k, g)
        shades = low + (high - low) * shades
        return lambda x, told: (1 - opacity) * x + opacity * shades[told]
    width = float(torch.rand((), generator=g))
    masks = torch.stack([_cells(shape, family, c, k, width, g) for c in range(k)])
    if family == "trigger":
        masks = masks[:1].expand_as(masks)
    cleared = masks.any(0) if family == "bar" else torch.zeros_like(masks[0])

    def mark(x: Tensor, told: Tensor) -> Tensor:
        return torch.where(masks[told], high, torch.where(cleared, low, x))

    return mark


def _waves(shape: torch.Size, k: int, g: torch.Generator) -> Tensor:
    """[k, *shape] in 0..1: stripes, a direction and frequency for each class."""
    axes = [torch.linspace(0, 1, n) for n in shape[1:]] if len(shape) == 3 else [torch.linspace(0, 1, shape[0])]
    grid = torch.meshgrid(*axes, indexing="ij")
    found = []
    for c in range(k):
        angle, cycles = math.pi * c / k, 1.5 + 2.0 * float(torch.rand((), generator=g)) + (c % 3)
        flat = len(grid) == 1
        phase = grid[0] + angle if flat else math.cos(angle) * grid[0] + math.sin(angle) * grid[1]
        found.append(0.5 + 0.5 * torch.sin(2 * math.pi * cycles * phase))
    return torch.stack([wave.expand(shape) for wave in found])


def _cells(shape: torch.Size, family: str, c: int, k: int, width: float, g: torch.Generator) -> Tensor:
    """bool [*shape] the cells of a class's cue. width: 0..1, of a patch, from 1/14 to 3/14 of the edge."""
    cells = torch.zeros(shape, dtype=torch.bool)
    if family == "bar":
        edge = cells[..., 0, :] if len(shape) == 3 else cells
        edge[..., : max(1, round((c + 1) * edge.shape[-1] / k))] = True
        return cells
    if len(shape) == 1:
        count = max(1, round(shape[0] * (1 + width) / 8))
        cells[torch.randperm(shape[0], generator=g)[:count]] = True
        return cells
    side = max(1, round(min(shape[1:]) * (1 + 2 * width) / 14))
    top, left = (int(torch.randint(length - side + 1, (), generator=g)) for length in shape[1:])
    cells[:, top : top + side, left : left + side] = True
    return cells


def _new(data: Dataset, family: str, g: torch.Generator) -> Callable[[Tensor, torch.Generator], Tensor]:
    shape = data.x.shape[1:]
    if family == "turned" and len(shape) == 3 and shape[1] == shape[2]:
        return lambda x, _: torch.rot90(x, 1, (2, 3))
    if family == "inverted":
        return lambda x, _: data.low + data.high - x
    order = torch.randperm(math.prod(shape[1:]) if len(shape) == 3 else shape[0], generator=g)
    span = (data.high - data.low).clamp_min(1e-12)

    def shuffled(x: Tensor, _: torch.Generator) -> Tensor:
        """Each cell takes another's place in its own range."""
        within = (x - data.low) / span
        within = within.flatten(2)[..., order].view_as(x) if x.ndim == 4 else within[:, order]
        return data.low + span * within

    return shuffled
