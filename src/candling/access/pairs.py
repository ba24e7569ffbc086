"""Prompts in pairs: a clean one, a corrupt one that differs in what matters, and two answers to tell apart."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Pairs:
    """n pairs of equally many tokens each. Shorter ones are padded on the right: attention is causal."""

    clean: Tensor
    """int64 [n, L]"""
    corrupt: Tensor
    """int64 [n, L]"""
    answer: Tensor
    """int64 [n], the token that follows the clean prompt"""
    wrong: Tensor
    """int64 [n], the token that follows the corrupt one"""
    last: Tensor
    """int64 [n], where each prompt ends: the position whose logits count"""

    def __len__(self) -> int:
        return len(self.clean)

    @property
    def length(self) -> int:
        return int(self.clean.shape[1])

    @property
    def first(self) -> int:
        """The first position at which any pair differs: nothing to the left of it can matter. 0 if none differs."""
        differing = torch.nonzero((self.clean != self.corrupt).any(0))
        return int(differing[0]) if len(differing) else 0

    def take(self, rows: Tensor | slice) -> Pairs:
        return Pairs(*(each[rows] for each in (self.clean, self.corrupt, self.answer, self.wrong, self.last)))

    def to(self, device: torch.device | str) -> Pairs:
        return Pairs(*(each.to(device) for each in (self.clean, self.corrupt, self.answer, self.wrong, self.last)))
