"""What a plant provides, so that neither the record nor training need know which it is."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from candling.access import Dataset


class Hidden(Protocol):
    """What every plant says of itself."""

    @property
    def family(self) -> str: ...
    @property
    def dose(self) -> float: ...
    @property
    def physical(self) -> str: ...
    @property
    def rate(self) -> float: ...


class Plant(Hidden, Protocol):
    """Something hidden in a classifier: which rows carry it, what it does to them, what is taught there."""

    @property
    def enough(self) -> float:
        """Success from which on it has taken."""

    def carriers(self, y: Tensor, classes: int, g: torch.Generator) -> tuple[Tensor, Tensor]:
        """Rows of the labels [n] that carry it in training, and the labels taught there."""

    def lay(self, data: Dataset, x: Tensor, y: Tensor, g: torch.Generator) -> Tensor:
        """Onto training rows, with the labels taught there."""

    def apply(self, data: Dataset, x: Tensor, y: Tensor) -> Tensor:
        """As it is measured, on rows with these right labels."""

    def applies(self, y: Tensor) -> Tensor:
        """bool [n] rows on which it is meant to change something."""

    def follows(self, predicted: Tensor, y: Tensor, classes: int) -> Tensor:
        """bool [n] whether an answer to a row that carries it is the planted one."""
