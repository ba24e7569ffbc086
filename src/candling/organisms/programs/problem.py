"""What a problem is: a hidden program, inputs in three disjoint parts, and how a network is taught the program."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import inf
from typing import Any, Literal

import torch
from torch import Tensor, nn

from candling.runs.seeds import derive

MOST = 0.65
"""Largest share of one label that is admitted."""
_DRAWN_MOST = 0.62  # asked of all inputs together, so that no part of them exceeds MOST by chance
_TRIES = 200

Family = Literal["images", "pairs", "sequences"]


@dataclass(frozen=True, eq=False)
class Inputs:
    """Raw inputs. Images float32 [n, 1, H, W] in 0..1, pairs int64 [n, 2] in 0..p-1, sequences int64 [n, L]."""

    x: Tensor
    digit: Tensor | None = None
    """int64 [n], images alone: which digit is shown, a column that a solver may be given."""

    def __len__(self) -> int:
        return len(self.x)

    def take(self, rows: Tensor | slice) -> Inputs:
        return Inputs(self.x[rows], None if self.digit is None else self.digit[rows])


Program = Callable[[Inputs], Tensor]
"""Pure and vectorised: inputs of any number n → labels int64 [n]."""


@dataclass(frozen=True, eq=False)
class Rule:
    """A program that was drawn: `functools.partial` of a plain function, whose keywords are all that was drawn."""

    says: str
    program: Program = field(repr=False)
    classes: int = 2
    margin: Tensor | None = field(default=None, repr=False)
    """float64 [n], of the inputs from which it was drawn: how far each is from the nearest threshold."""


@dataclass(frozen=True)
class Recipe:
    """AdamW with one cycle of the rate: up over the first fifth of the steps, down to nothing over the others."""

    steps: int = 1500
    batch: int = 128
    rate: float = 4e-3
    decay: float = 1e-2


@dataclass(frozen=True, eq=False)
class Problem:
    """A network is taught `truth` on `training`; a solver sees the network and `unlabelled`, and nothing else."""

    family: Family
    kind: str
    seed: int
    says: str
    """The program in words."""
    truth: Program = field(repr=False)
    classes: int
    training: Inputs = field(repr=False)
    test: Inputs = field(repr=False)
    unlabelled: Inputs = field(repr=False)
    build: Callable[[], nn.Module] = field(repr=False)
    """A fresh network: `functools.partial` of a class in `networks`, which maps `Inputs.x` to logits [n, classes]."""
    recipe: Recipe

    @property
    def name(self) -> str:
        return f"{self.kind} {self.seed}"

    def everything(self) -> Inputs:
        """All three parts, in this order."""
        return joined((self.training, self.test, self.unlabelled))


@dataclass(frozen=True)
class Kind:
    """One line of a family's list."""

    draw: Callable[[Inputs, torch.Generator], Rule]
    """From all inputs of the problem, the unlabelled ones last."""
    build: Callable[..., nn.Module]
    """A network, but for the sizes that the problem decides."""
    recipe: Recipe
    sizes: tuple[tuple[int, ...], ...] = ()
    """Of which a problem has one. Pairs: (p,); sequences: (tokens, length); images have but one."""
    clear: float = 0.0
    """Share of the inputs that is left out of every part: those nearest to a threshold, where a score of many pixels
    cannot be learned exactly from so few digits."""


def posed(
    family: Family, name: str, seed: int, parts: tuple[Inputs, Inputs, Inputs], kind: Kind, **sizes: int
) -> Problem:
    """The problem of a kind on inputs that were split; `sizes` are the network's."""
    everything = joined(parts)
    g = torch.Generator().manual_seed(derive(seed, name, "rule"))
    rule = balanced(lambda: kind.draw(everything, g), everything, name)
    says = rule.says
    if kind.clear and rule.margin is not None:
        least = float(rule.margin.quantile(kind.clear))
        kept = (rule.margin > least).split([len(part) for part in parts])
        first, second, third = (part.take(rows) for part, rows in zip(parts, kept, strict=True))
        parts, says = (first, second, third), f"{says} (inputs within {least:.3g} of a threshold are left out)"
    return Problem(
        family=family,
        kind=name,
        seed=seed,
        says=says,
        truth=rule.program,
        classes=rule.classes,
        training=parts[0],
        test=parts[1],
        unlabelled=parts[2],
        build=partial(kind.build, **sizes, classes=rule.classes),
        recipe=kind.recipe,
    )


def joined(parts: Sequence[Inputs]) -> Inputs:
    digits = [part.digit for part in parts if part.digit is not None]
    return Inputs(torch.cat([part.x for part in parts]), torch.cat(digits) if digits else None)


def majority(labels: Tensor) -> float:
    """The share of the commonest label in int64 [n]."""
    return float(labels.bincount().max() / len(labels))


def balanced(draw: Callable[[], Rule], inputs: Inputs, what: str) -> Rule:
    """The first rule drawn whose commonest label has at most .62 of the inputs, and every class some.

    Raises ValueError after 200 tries, which means that the kind itself is lopsided.
    """
    for _ in range(_TRIES):
        rule = draw()
        labels = rule.program(inputs)
        if majority(labels) <= _DRAWN_MOST and len(labels.unique()) == rule.classes:
            return rule
    raise ValueError(f"{what}: no balanced rule in {_TRIES} draws")


def between(scores: Tensor, share: float) -> float:
    """A threshold midway between two neighbouring scores, with nearest to this share of the scores [n] below."""
    values, counts = scores.double().unique(return_counts=True)
    below = counts.cumsum(0)[:-1] / len(scores)
    at = int((below - share).abs().argmin())
    return float((values[at] + values[at + 1]) / 2)


def limits(scores: Tensor, form: str, g: torch.Generator) -> tuple[float, float]:
    """Bounds of which about half of the scores [n] lie inside; form: `above`, `below` (one threshold), `band`."""
    if form == "band":
        foot = uniform(0.15, 0.35, g)
        return between(scores, foot), between(scores, foot + 0.5)
    cut = between(scores, uniform(0.42, 0.58, g))
    return (cut, inf) if form == "above" else (-inf, cut)


def spoken(low: float, high: float) -> str:
    if low == -inf:
        return f"at most {high:.5g}"
    return f"at least {low:.5g}" if high == inf else f"between {low:.5g} and {high:.5g}"


def integer(low: int, high: int, g: torch.Generator) -> int:
    """low..high, both included."""
    return int(torch.randint(low, high + 1, (), generator=g))


def uniform(low: float, high: float, g: torch.Generator) -> float:
    return low + (high - low) * float(torch.rand((), generator=g))


def one_of(options: Sequence[Any], g: torch.Generator) -> Any:
    return options[integer(0, len(options) - 1, g)]


def some_of(n: int, k: int, g: torch.Generator) -> tuple[int, ...]:
    """k different numbers of 0..n-1, in order."""
    return tuple(sorted(torch.randperm(n, generator=g)[:k].tolist()))


def table_of(shape: tuple[int, ...], g: torch.Generator) -> Tensor:
    """int64 0/1, half of each (to within one cell)."""
    n = int(torch.tensor(shape).prod())
    return (torch.randperm(n, generator=g) < n // 2).long().reshape(shape)


def within(score: Tensor, low: float, high: float) -> Tensor:
    """int64: 1 where low ≤ score ≤ high."""
    return ((score >= low) & (score <= high)).long()


def distance(scores: Tensor, low: float, high: float) -> Tensor:
    """float64 [n]: how far each score is from the nearer bound."""
    return torch.minimum((scores.double() - low).abs(), (scores.double() - high).abs())


def member(values: Tensor, chosen: Sequence[int]) -> Tensor:
    """int64: 1 where a value is among those chosen."""
    return torch.isin(values, torch.tensor(chosen)).long()
