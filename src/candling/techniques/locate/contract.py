"""What every technique of this folder gives: one number a part, beside what it cost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from candling.evidence.measurement import Cost

Metric = Callable[[Tensor], Tensor]
"""Logits at the positions that count [n, V] → one number a pair [n]"""


@dataclass(frozen=True, eq=False)
class LogitDifference:
    """The answer's logit less the wrong one's: a `Metric` for which two rows of the unembedding are enough."""

    answer: Tensor
    """int64 [n]"""
    wrong: Tensor
    """int64 [n]"""

    def __call__(self, logits: Tensor) -> Tensor:
        """[n, V] → [n]"""
        rows = torch.arange(len(logits), device=logits.device)
        return logits[rows, self.answer] - logits[rows, self.wrong]


@dataclass(frozen=True)
class Axis:
    """One way in which parts are counted: layers, heads, positions, senders, receivers, units."""

    name: str
    labels: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Scores:
    """How much each part matters, in units of the metric; comparable between techniques.

    A value is the change of the metric, averaged over pairs, when the part alone takes the value that it has in the
    other run: measured by an exact technique, estimated by attribution. 0: it does not matter.
    """

    technique: str
    values: Tensor
    """[len(axis) for each axis], NaN where there is no such part"""
    axes: tuple[Axis, ...]
    clean: float
    """The metric on the clean prompts, averaged."""
    corrupt: float
    """On the corrupt ones."""
    cost: Cost
    """In passes of one prompt."""
    denoising: bool = False
    """Is the clean value put into the corrupt run? Else the corrupt value into the clean run (noising)."""

    def __post_init__(self) -> None:
        if tuple(self.values.shape) != tuple(len(axis.labels) for axis in self.axes):
            raise ValueError(f"values {list(self.values.shape)} do not fit the axes")

    @property
    def share(self) -> Tensor:
        """Values as a share of the way from the run that is patched to the other: 1 is all of it."""
        whole = self.clean - self.corrupt if self.denoising else self.corrupt - self.clean
        return self.values / whole

    @property
    def there(self) -> Tensor:
        """bool, of the values' shape: is there such a part?"""
        return ~self.values.isnan()

    def best(self, count: int) -> list[tuple[tuple[str, ...], float]]:
        """Labels and value of the parts that matter most, by absolute value."""
        flat = self.values.abs().nan_to_num(-1.0).flatten()
        places = torch.argsort(flat, descending=True, stable=True)[: min(count, int(self.there.sum()))]
        found = []
        for place in places.tolist():
            at = torch.unravel_index(torch.tensor(place), self.values.shape)
            labels = tuple(axis.labels[int(i)] for axis, i in zip(self.axes, at, strict=True))
            found.append((labels, float(self.values.flatten()[place])))
        return found
