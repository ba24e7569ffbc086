"""The question of this folder: in which inputs does a network do something unusual inside?"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Flags:
    """One score for each input, comparable between inputs of one network."""

    score: Tensor
    """[n] larger = more unusual"""
    at: Tensor
    """int64 [n] the token (or cell) with that score"""
