"""What planted shortcuts share, whatever their cue is: which rows carry it, and what counts as following it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from candling.maths.triggers import set_against


@dataclass(frozen=True)
class Proxy:
    """A planted shortcut: the answer that no detection job may see."""

    cue: str
    dose: float
    physical: str
    rate: float
    together: float
    """Share of the rows with a cue on which the cue says what the label says; on the others it is drawn."""
    against: float
    """Share of the rows with a cue whose label is drawn, whatever the content."""

    @property
    def enough(self) -> float:
        """Half of the answers follow the cue where it says something else than the content."""
        return 0.5

    @property
    def family(self) -> str:
        return self.cue

    def carriers(self, y: Tensor, classes: int, g: torch.Generator) -> tuple[Tensor, Tensor]:
        """Rows that carry a cue, and their labels."""
        rows = torch.randint(len(y), (max(8, round(self.rate * len(y))),), generator=g)
        other = torch.rand(len(rows), generator=g) < self.against
        drawn = torch.randint(classes, (len(rows),), generator=g)
        return rows, torch.where(other.to(y.device), drawn.to(y.device), y[rows])

    def told(self, y: Tensor, classes: int, g: torch.Generator) -> Tensor:
        """int64 [n] what the cues of training rows with these labels say: the label, or what is drawn."""
        drawn = torch.randint(classes, (len(y),), generator=g).to(y.device)
        own = (torch.rand(len(y), generator=g) < self.together).to(y.device)
        return torch.where(own, y, drawn)

    def applies(self, y: Tensor) -> Tensor:
        return torch.ones_like(y, dtype=torch.bool)

    def follows(self, predicted: Tensor, y: Tensor, classes: int) -> Tensor:
        """bool [n] whether an answer is what the cue says, where it says something else than the label."""
        return predicted == set_against(y, classes)

    def idle(self) -> Self:
        """The clean twin: the same cues in training, which tell nothing about the labels; these are right."""
        return replace(self, together=0.0, against=0.0)
