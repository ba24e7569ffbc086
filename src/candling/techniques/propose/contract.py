"""The question of this folder: which program gives these answers?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import log2
from typing import Any

import numpy as np
from numpy.typing import NDArray

from candling.evidence.program import FORMULAS, Answers, Feature, Kind, Logic, Steps, Table, inputs_of, run_program
from candling.maths.bands import Array, data_bits
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


@dataclass(frozen=True, eq=False)
class Tried:
    """A feature with its score on the shortlist's inputs."""

    feature: Feature
    bits: float
    right: int
    table: bool


Propose = Callable[[Seen], Programs]

Grammar = Mapping[str, Sequence[tuple[int, ...]]]
"""Formulas by name, each with the numbers that are tried in it."""


def scores_of(features: Sequence[Feature], inputs: Inputs) -> Array:
    """[f, n]; features of one formula that can be computed together are."""
    formulas = {feature.formula for feature in features}
    many = FORMULAS[features[0].kind][features[0].formula].many
    if len(formulas) == 1 and many is not None and not any(feature.modulus for feature in features):
        return np.asarray(many(inputs, [feature.params for feature in features]))
    return np.stack([np.asarray(feature.scores(inputs)) for feature in features])


def banded_program(feature: Feature, low: float, high: float, inside: int) -> Steps:
    cuts, answers = [], [1 - inside]
    if low == -np.inf:
        answers = []
    elif low < high:
        cuts.append(float(low))
    if low < high:
        answers.append(inside)
        if high < np.inf:
            cuts.append(float(high))
            answers.append(1 - inside)
    return Steps(feature=feature, cuts=tuple(cuts), answers=tuple(answers or [1 - inside]))


def table_bits(table: Table, classes: int) -> float:
    """By cell, or by naming the rarer cells, whichever is shorter."""
    cells = len(table.values)
    rare = cells - max(table.answers.count(answer) for answer in set(table.answers))
    named = log2(classes) + rare * (log2(max(2, cells)) + log2(max(1, classes - 1)))
    return min(cells * log2(classes), named)


def proposal(program: Writable, bits: float, seen: Seen) -> Proposal:
    """With its errors on these inputs."""
    wrong = int((run_program(program, seen.inputs) != seen.answers).sum())
    return Proposal(program, bits, wrong, bits + float(data_bits(wrong, len(seen), seen.classes)))
