"""A program that a network may compute: what it says, and how it runs. Plain data, so that a record holds it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from candling.evidence.measurement import Record
from candling.maths.formulas import IMAGES, PAIRS, SEQUENCES, Formula, Inputs

Answers = NDArray[np.int64]

FORMULAS: Mapping[str, Mapping[str, Formula]] = {"images": IMAGES, "pairs": PAIRS, "sequences": SEQUENCES}
"""By the kind of input, by name."""


Kind = Literal["images", "pairs", "sequences"]
"""Of inputs."""
Join = Literal["and", "or", "xor"]


class Feature(Record):
    """A formula with its numbers: one score an input."""

    kind: Kind
    formula: str
    params: tuple[int, ...]
    modulus: int = 0
    """The score's remainder by this, where it is not 0."""

    def scores(self, inputs: Inputs) -> NDArray[Any]:
        """[n]. Raises ValueError for a formula that is not known."""
        scores = self._formula(inputs, self.params)
        return scores % self.modulus if self.modulus else scores

    def written(self) -> str:
        text = self._formula.written(self.params)
        return f"({text}) % {self.modulus}" if self.modulus else text

    @property
    def modular(self) -> bool:
        """Are its remainders features as well?"""
        return self._formula.modular and not self.modulus

    @property
    def _formula(self) -> Formula:
        if self.formula not in FORMULAS[self.kind]:
            raise ValueError(f"there is no formula {self.formula!r} of {self.kind}")
        return FORMULAS[self.kind][self.formula]


class Steps(Record):
    """An answer for each stretch of a score: a threshold, a band, a staircase."""

    form: Literal["steps"] = "steps"
    feature: Feature
    cuts: tuple[float, ...]
    """Rising. A score below the first has the first answer, and so on."""
    answers: tuple[int, ...]
    """One more than there are cuts."""


class Table(Record):
    """An answer for each value of a score."""

    form: Literal["table"] = "table"
    feature: Feature
    values: tuple[int, ...]
    """Rising."""
    answers: tuple[int, ...]
    other: int
    """For values that are not listed."""


class Logic(Record):
    """Two programs that say 0 or 1, joined."""

    form: Literal["logic"] = "logic"
    join: Join
    first: Steps | Table
    second: Steps | Table


Program = Annotated[Steps | Table | Logic, Field(discriminator="form")]


def run_program(program: Steps | Table | Logic, inputs: Inputs) -> Answers:
    """int64 [n] what it answers."""
    if isinstance(program, Logic):
        first, second = (run_program(part, inputs) == 1 for part in (program.first, program.second))
        joined = {"and": first & second, "or": first | second, "xor": first ^ second}[program.join]
        both: Answers = joined.astype(np.int64)
        return both
    scores = program.feature.scores(inputs)
    answers = np.asarray(program.answers, dtype=np.int64)
    if isinstance(program, Steps):
        said: Answers = answers[np.searchsorted(np.asarray(program.cuts, dtype=np.float64), scores, side="right")]
        return said
    values = np.asarray(program.values)
    place = np.minimum(np.searchsorted(values, scores), len(values) - 1)
    listed: Answers = np.where(values[place] == scores, answers[place], program.other)
    return listed


def features_of(program: Steps | Table | Logic) -> list[Feature]:
    """Those that it reads, in order."""
    if isinstance(program, Logic):
        return [*features_of(program.first), *features_of(program.second)]
    return [program.feature]


def inputs_of(
    x: NDArray[Any], kind: Kind, pool: NDArray[Any] | None = None, concepts: NDArray[np.int64] | None = None
) -> Inputs:
    """The letters of formulas: `a`, `b` of pairs, else `x`; `e` a pool [m, H, W] of exemplars, `c` concepts [n, k].

    Colours are averaged. Concepts that nobody gave have no columns.
    """
    if kind == "pairs":
        return {"a": x[:, 0].astype(np.int64), "b": x[:, 1].astype(np.int64)}
    if kind == "sequences":
        return {"x": x.astype(np.int64)}
    return {
        "x": _grey(x),
        "e": _grey(x if pool is None else pool),
        "c": np.zeros((len(x), 0), dtype=np.int64) if concepts is None else concepts,
    }


def _grey(x: NDArray[Any]) -> NDArray[np.float64]:
    grey: NDArray[np.float64] = (x.mean(1) if x.ndim == 4 else x).astype(np.float64)
    return grey


def exemplars_of(program: Steps | Table | Logic) -> list[int]:
    """Rows of the pool that it names."""
    named = {"dot", "signed", "l1", "l2", "cosine"}
    return sorted({feature.params[0] for feature in features_of(program) if feature.formula in named})
