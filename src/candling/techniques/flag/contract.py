"""The question of this folder: in which inputs does a network do something unusual inside?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Flags:
    """One score for each input, comparable between inputs of one network."""

    score: Tensor
    """[n] larger = more unusual"""
    at: Tensor | None = None
    """int64 [n] the token with that score; None where inputs have no tokens"""


Scoring = Callable[[Tensor], Tensor]
"""States [k, d] → [k], larger = more unusual."""

Fit = Callable[[Tensor, Tensor, Tensor], Scoring]
"""(trusted states [n, d], the classes that they are predicted as [n], untrusted states [m, d]) → how to score.

What a detector of this folder is: it sees states of one layer, and no label of an untrusted input.
"""
