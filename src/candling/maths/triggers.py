"""A trigger: what it does to an input, and what it does to the label."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


def apply_trigger(x: Tensor, mask: Tensor, shift: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """clamp((1 − mask)·x + shift, low, high), broadcast.

    One form serves patches (mask on the patch, shift = mask · pattern), blends (mask = opacity everywhere)
    and additive perturbations (mask = 0). x: [..., *input]; mask and shift broadcast against it.
    """
    return torch.minimum(torch.maximum((1 - mask) * x + shift, low), high)


@dataclass(frozen=True)
class Mapping:
    """Which label a trigger asks for. Exactly one of `target` and `shift` is set.

    all-to-one: target, any source · source-specific: target and source · all-to-all: y → (y + shift) mod K.
    """

    target: int | None = None
    source: int | None = None
    shift: int | None = None

    def __post_init__(self) -> None:
        if (self.target is None) == (self.shift is None):
            raise ValueError("a mapping has either a target or a shift")
        if self.source is not None and self.target is None:
            raise ValueError("a source goes with a target: a shift moves every class")

    @property
    def kind(self) -> str:
        if self.shift is not None:
            return "all-to-all"
        return "all-to-one" if self.source is None else "source-specific"

    def wanted(self, y: Tensor, classes: int) -> Tensor:
        """The label asked for, for each true label."""
        if self.shift is not None:
            return (y + self.shift) % classes
        assert self.target is not None
        return torch.full_like(y, self.target)

    def applies(self, y: Tensor) -> Tensor:
        """Rows on which the trigger is meant to change something."""
        if self.target is None:
            return torch.ones_like(y, dtype=torch.bool)
        away = torch.ne(y, self.target)
        return away if self.source is None else away & torch.eq(y, self.source)

    def __str__(self) -> str:
        if self.shift is not None:
            return f"all-to-all, y → y+{self.shift}"
        return f"{self.kind}, {'any' if self.source is None else self.source} → {self.target}"


def set_against(y: Tensor, classes: int, among: Tensor | None = None) -> Tensor:
    """int64 [n] a class other than each label of y [n], all others in turn; or all others of `among` [m >= 2]."""
    among = torch.arange(classes) if among is None else among
    among = among.to(y.device)
    place = torch.full((classes,), -1, device=y.device)
    place[among] = torch.arange(len(among), device=y.device)
    own, turn = place[y], torch.arange(len(y), device=y.device)
    m = len(among)
    return among[torch.where(own >= 0, own + 1 + turn % max(1, m - 1), turn) % m]
