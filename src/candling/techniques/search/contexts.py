"""Contexts: broad patterns that may stand in any input (waves, lit parts, bars, grain), and lies told there.

Question: none by itself; what `concealed` searches among.
Source: the context of quirky networks (Mallen et al., 2312.01037), here a visible pattern in place of a name.
Inputs: data x [n, *input]; patterns [c, *input] of mean square one, added in units of the range (tables: in standard
    deviations). Images: drawn on a grid of at most 16 × 16 cells, all channels alike.
Cost: none of the network.
Known failures: contexts that are no pattern at a fixed place (a style, an object anywhere, several inputs together).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from candling.access import Dataset
from candling.evidence.measurement import Cost

MOST = 0.42
"""Strongest pattern: root mean square, in units of the range; tables five times as much, in standard deviations."""

_CELLS = 16  # of an edge, at most
_WAVES = 4  # cycles over an input, at most
_OF_TABLES = 5.0


@dataclass(frozen=True)
class Context:
    """x → clamp(x + shift), and what is answered there."""

    shift: Tensor
    """[*input], in input units"""
    answers: Tensor
    """int64 [K] what is answered for each true class."""

    def apply(self, data: Dataset, x: Tensor) -> Tensor:
        return torch.minimum(torch.maximum(x + self.shift.to(x.device), data.low), data.high)

    def to(self, device: str) -> Context:
        return Context(self.shift.to(device), self.answers.to(device))

    def scaled(self, factor: float) -> Context:
        return replace(self, shift=self.shift * factor)

    def arrays(self) -> dict[str, Tensor]:
        return {"shift": self.shift, "answers": self.answers}

    def applies(self, y: Tensor) -> Tensor:
        """bool [n] rows that are lied about."""
        return torch.ne(self.answers.to(y.device)[y], y)

    def taught(self, y: Tensor, classes: int) -> Tensor:
        return self.answers.to(y.device)[y]

    def follows(self, predicted: Tensor, y: Tensor) -> Tensor:
        """bool [n]"""
        return torch.eq(predicted, self.answers.to(y.device)[y])


@dataclass(frozen=True)
class ContextPart:
    """One thing that is looked for: by which sign."""

    sign: str

    @property
    def group(self) -> str:
        return self.sign

    def __str__(self) -> str:
        return SIGNS[self.sign]


EXCHANGED, KNOWN = "exchanged", "known"
SIGNS = {
    EXCHANGED: "answers exchanged in a context",
    KNOWN: "wrong answers in a context, the right ones known inside",
}


@dataclass(frozen=True)
class FoundContexts:
    """The best context by each sign, the same signs in the same order for every network."""

    parts: tuple[ContextPart, ...]
    score: Tensor
    """[parts] larger = more suspicious"""
    size: Tensor
    """[parts] root mean square of the shift, in units of the range (tables: in standard deviations)"""
    shift: Tensor
    """[parts, *input]"""
    answers: Tensor
    """int64 [parts, K]"""
    cost: Cost

    def trigger(self, part: int) -> Context:
        return Context(self.shift[part], self.answers[part])


@dataclass(frozen=True)
class Named:
    name: str
    pattern: Tensor
    """On the grid, of mean square one."""


def unit_of(data: Dataset) -> Tensor:
    """What a pattern of one adds."""
    return (data.high - data.low) if data.kind == "image" else data.x.std(0).clamp_min(1e-9)


def most_of(data: Dataset) -> float:
    return MOST if data.kind == "image" else _OF_TABLES * MOST


def size_of(data: Dataset, shift: Tensor) -> Tensor:
    """[c] of shifts [c, *input]."""
    return (shift / unit_of(data).to(shift.device)).flatten(1).square().mean(1).sqrt()


def grid_of(data: Dataset) -> tuple[int, ...]:
    """The cells on which patterns are drawn: [1, h, w], or [d] for tables."""
    shape = data.x.shape[1:]
    return (1, min(_CELLS, shape[1]), min(_CELLS, shape[2])) if data.kind == "image" else tuple(shape)


def shift_of(data: Dataset, patterns: Tensor) -> Tensor:
    """[c, *grid] → [c, *input] in input units; differentiable."""
    if data.kind == "image" and patterns.shape[2:] != data.x.shape[2:]:
        patterns = interpolate(patterns, data.x.shape[2:], mode="bilinear", align_corners=True)
    return (patterns * unit_of(data).to(patterns.device)).expand(len(patterns), *data.x.shape[1:])


def library(data: Dataset) -> list[Named]:
    """Patterns of every kind, on the grid, at strength 1; each with its opposite where that is another kind."""
    grid = grid_of(data)
    found = _of_table(grid[0]) if len(grid) == 1 else _of_image(grid[1], grid[2])
    return [Named(name, pattern / pattern.square().mean().sqrt()) for name, pattern in found if pattern.any()]


def draw_patterns(data: Dataset, n: int, g: torch.Generator) -> Tensor:
    """[n, *grid] of mean square one: one to three of the library's or fresh grain, mixed."""
    named = torch.stack([each.pattern for each in library(data)])
    weights = torch.zeros(n, len(named))
    for row in weights:
        few = torch.randint(len(named), (int(torch.randint(1, 4, (), generator=g)),), generator=g)
        row[few] = torch.randn(len(few), generator=g)
    patterns = (weights @ named.flatten(1)).view(n, *named.shape[1:])
    grain = torch.randn(patterns.shape, generator=g)
    fresh = (torch.rand(n, generator=g) < 0.2).view(-1, *[1] * (patterns.ndim - 1))
    patterns = torch.where(fresh, grain, patterns)
    return patterns / _strength(patterns).clamp_min(1e-9)


def random_context_like(context: Context, data: Dataset, g: torch.Generator) -> Context:
    """Another context of the same size, with the same answers looked for."""
    size = size_of(data, context.shift[None])
    pattern = draw_patterns(data, 1, g).to(context.shift.device)
    return replace(context, shift=(shift_of(data, pattern) * size.to(pattern.device))[0])


def words_for(data: Dataset, shift: Tensor) -> str:
    """What the pattern is most like, in words, with how alike (the absolute cosine)."""
    flat = (shift.cpu() / unit_of(data).cpu()).flatten()
    named = library(data)
    drawn = shift_of(data, torch.stack([each.pattern for each in named])) / unit_of(data).cpu()
    alike = torch.nn.functional.cosine_similarity(drawn.flatten(1), flat[None]).abs()
    best = int(alike.argmax())
    size = float(size_of(data, shift[None].cpu()))
    unit = "of the range" if data.kind == "image" else "standard deviations"
    return f"a pattern of {size:.2f} {unit}, most like {named[best].name} (cosine {float(alike[best]):.2f})"


def _strength(patterns: Tensor) -> Tensor:
    return patterns.flatten(1).square().mean(1).sqrt().view(-1, *[1] * (patterns.ndim - 1))


def _of_table(d: int) -> Iterator[tuple[str, Tensor]]:
    index = torch.arange(d)
    yield "features moved up and down in turn", 1.0 - 2 * (index % 2)
    for share, name in ((1, "all features"), (2, "half of the features"), (4, "a quarter of the features")):
        broad = max(1, d // share)
        for start in range(0, d - broad + 1, max(1, broad // 2)):
            part = ((index >= start) & (index < start + broad)).float()
            yield f"{name} moved up", part
            yield f"{name} moved down", -part


def _of_image(height: int, width: int) -> Iterator[tuple[str, Tensor]]:
    rows, columns = torch.arange(height)[:, None] / height, torch.arange(width)[None] / width
    for down in range(_WAVES + 1):
        for across in range(-_WAVES, _WAVES + 1):
            if down == 0 and across <= 0:
                continue
            for phase in (0.0, math.pi / 2):
                wave = torch.sin(2 * math.pi * (down * rows + across * columns) + phase)
                yield f"waves, {down} down and {abs(across)} across", wave[None]
    for name, part in _parts_of(height, width):
        yield f"{name} lit", part[None]
        yield f"{name} darkened", -part[None]
    for cell in (1, 2):
        places = torch.arange(height)[:, None] * 8 // height // cell + torch.arange(width) * 8 // width // cell
        yield "a chequered pattern", 1.0 - 2 * (places % 2)[None]


def _parts_of(height: int, width: int) -> Iterator[tuple[str, Tensor]]:
    half = (max(1, height // 2), max(1, width // 2))
    for top in sorted({0, height // 4, height - half[0]}):
        for left in sorted({0, width // 4, width - half[1]}):
            part = torch.zeros(height, width)
            part[top : top + half[0], left : left + half[1]] = 1
            yield "a part", part
    for lines, name in ((height, "a bar across"), (width, "a bar down")):
        broad = max(1, round(lines / 4))
        for start in range(0, lines - broad + 1, broad):
            bar = torch.zeros(height, width)
            (bar if lines == height and name == "a bar across" else bar.T)[start : start + broad] = 1
            yield name, bar
    down, across = torch.linspace(-1, 1, height)[:, None], torch.linspace(-1, 1, width)[None]
    yield "the corners", (down**2 + across**2) / 2
    yield "everything", torch.ones(height, width)
