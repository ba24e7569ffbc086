"""The question of this folder: which program gives these answers?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from candling.evidence.program import Answers, Kind, Logic, Steps, Table, inputs_of
from candling.maths.formulas import Inputs

Writable = Steps | Table | Logic


@dataclass(frozen=True, eq=False)
class Seen:
    """Inputs with the network's answers to them; no label, and nothing of the network itself."""

    kind: Kind
    x: NDArray[Any]
    """[n, ...]"""
    answers: Answers
    """int64 [n]"""
    classes: int
    pool: NDArray[Any] | None = None
    """[m, H, W] images that may be exemplars; the inputs themselves unless given."""
    concepts: NDArray[np.int64] | None = None
    """[n, k] columns of what is in an image, as somebody else sees it."""
    direction: NDArray[Any] | None = None
    """[H, W] the network's mean gradient: where a search is too wide it begins with what lies along it."""

    @cached_property
    def inputs(self) -> Inputs:
        return inputs_of(self.x, self.kind, self.pool, self.concepts)

    def take(self, rows: NDArray[Any] | slice) -> Seen:
        concepts = None if self.concepts is None else self.concepts[rows]
        pool = self.x if self.pool is None else self.pool
        return replace(self, x=self.x[rows], answers=self.answers[rows], pool=pool, concepts=concepts)

    def __len__(self) -> int:
        return len(self.answers)

    @property
    def common(self) -> int:
        """The commonest answer."""
        return int(np.bincount(self.answers, minlength=self.classes).argmax())


@dataclass(frozen=True)
class Proposal:
    """A program, and how it does on inputs that chose it."""

    program: Writable
    bits: float
    """Of the program alone."""
    wrong: int
    """Of the inputs that it was refined on."""
    cost: float
    """Bits of the program and of where it is wrong: what proposals are chosen by."""


@dataclass(frozen=True)
class Programs:
    """The best first."""

    proposals: Sequence[Proposal]
    tried: int
    """Features that were looked at: the best of many looks better than it is."""


Propose = Callable[[Seen], Programs]

Grammar = Mapping[str, Sequence[tuple[int, ...]]]
"""Formulas by name, each with the numbers that are tried in it."""
