"""Formulas that programs are written in: an expression over the inputs, with whole numbers as parameters.

An expression is at once what is computed, what `program.py` says and what a reader sees. Parameters are checked to be
whole numbers, and expressions come from this package alone: nothing that a record holds is ever evaluated.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from candling.maths import image_scores, pair_scores, sequence_scores

Inputs = Mapping[str, NDArray[Any]]
"""What letters stand for: `a` and `b` [n], or `x` [n, ...]; `e` exemplars by number, `c` [n, k] concepts."""


@dataclass(frozen=True)
class Formula:
    """One feature of the inputs for each choice of its parameters."""

    name: str
    letters: str
    """Parameters, a letter each, in order."""
    code: str
    """numpy, over the inputs' letters and the parameters."""
    helpers: ModuleType | None = None
    """Where the functions that it calls are."""
    modular: bool = False
    """Is its remainder by a small number a feature as well?"""
    many: Callable[[Inputs, Sequence[tuple[int, ...]]], NDArray[Any]] | None = None
    """[f, n] scores for many choices of the parameters at once, to rounding."""

    @cached_property
    def compute(self) -> Callable[..., NDArray[Any]]:
        names = ", ".join(["of", *self.letters])
        inputs = "; ".join(f"{letter} = of[{letter!r}]" for letter in _inputs_of(self))
        scope: dict[str, Any] = {"np": np, **(vars(self.helpers) if self.helpers else {})}
        exec(f"def compute({names}):\n    {inputs}\n    return {self.code}", scope)  # of our own code alone
        made: Callable[..., NDArray[Any]] = scope["compute"]
        return made

    def __call__(self, inputs: Inputs, params: Sequence[int]) -> NDArray[Any]:
        """[n] scores. Raises ValueError where the parameters are no whole numbers or of another count."""
        return self.compute(inputs, *self._checked(params))

    def written(self, params: Sequence[int]) -> str:
        """The expression with its numbers in place, tidied: `(3 * a + 5 * b) % 31`."""
        text = self.code
        for letter, value in zip(self.letters, self._checked(params), strict=True):
            shown = str(value) if value >= 0 else f"({value})"
            text = re.sub(rf"\b{letter}\b", shown, text)
        return _tidied(text)

    def _checked(self, params: Sequence[int]) -> list[int]:
        if len(params) != len(self.letters) or any(type(value) is not int for value in params):
            raise ValueError(f"{self.name} takes {len(self.letters)} whole numbers, not {list(params)}")
        return list(params)


def _inputs_of(formula: Formula) -> list[str]:
    return [letter for letter in "abxec" if re.search(rf"\b{letter}\b", formula.code)]


def _tidied(text: str) -> str:
    """Without 1 · and 0 · terms and double signs; the value stays the same."""
    term = r"(?:[a-z]|[a-z] \* [a-z])"
    for _ in range(4):
        text = re.sub(rf"(?<![\w*] )(?<![\w.])0 \* {term} \+ ", "", text)
        text = re.sub(rf" \+ 0 \* {term}(?= \+|\)|$)", "", text)
        text = re.sub(r"(?<![\w.])1 \* (?=[a-z])", "", text)
        text = re.sub(r"\+ \(-1\) \* (?=[a-z])", "- ", text)
        text = re.sub(r"\+ \(-(\d+)\)", r"- \1", text)
        text = re.sub(r"(?<=[a-z]) - 0(?=\)| )", "", text)
    return text


def _table(formulas: Sequence[Formula]) -> dict[str, Formula]:
    return {formula.name: formula for formula in formulas}


PAIRS = _table(
    [
        Formula("sum mod", "uvm", "(u * a + v * b) % m"),
        Formula("sum", "uv", "u * a + v * b", modular=True),
        Formula("distance", "", "np.abs(a - b)", modular=True),
        Formula("circular distance", "m", "np.minimum((a - b) % m, (b - a) % m)", modular=True),
        Formula("smaller", "", "np.minimum(a, b)", modular=True),
        Formula("larger", "", "np.maximum(a, b)", modular=True),
        Formula("product", "uv", "(a + u) * (b + v)", modular=True),
        Formula("product mod", "m", "a * b % m"),
        Formula("quadratic", "uvw", "u * a * a + v * a * b + w * b * b", modular=True),
        Formula("quadratic mod", "uvwm", "(u * a * a + v * a * b + w * b * b) % m"),
        Formula("square and line", "uvm", "(u * a * a + v * b) % m"),
        Formula("line and square", "uvm", "(u * b * b + v * a) % m"),
        Formula("circle", "gh", "(a - g) ** 2 + (b - h) ** 2"),
        Formula("diamond", "gh", "np.abs(a - g) + np.abs(b - h)"),
        Formula("square", "gh", "np.maximum(np.abs(a - g), np.abs(b - h))"),
        Formula("blocks", "stm", "(a // s + b // t) % m"),
        Formula("cells", "sk", "(a // s) * k + b // s"),
        Formula("stripes of a", "sm", "a // s % m"),
        Formula("stripes of b", "sm", "b // s % m"),
        Formula("residues", "mk", "(a % m) * k + b % k"),
        Formula("divides both", "mk", "2 * (a % m == 0) + (b % k == 0)"),
        Formula("divides sum", "mk", "2 * ((a + b) % m == 0) + ((a - b) % k == 0)"),
        Formula("common divisor", "uv", "np.gcd(a + u, b + v)"),
        Formula("divides", "uv", "divides(a + u, b + v) + 2 * divides(b + v, a + u)", pair_scores),
        Formula("bits xor", "", "a ^ b", modular=True),
        Formula("bits and", "", "a & b", modular=True),
        Formula("bits or", "", "a | b", modular=True),
        Formula("ones xor", "", "ones(a ^ b)", pair_scores, modular=True),
        Formula("ones and", "", "ones(a & b)", pair_scores, modular=True),
        Formula("ones", "uv", "u * ones(a) + v * ones(b)", pair_scores, modular=True),
        Formula("digits", "uv", "u * digits(a) + v * digits(b)", pair_scores, modular=True),
        Formula("sum of remainders", "mk", "a % m + b % k"),
        Formula("difference of remainders", "mk", "a % m - b % k"),
    ]
)
"""Of two whole numbers from 0, by name."""

_S = sequence_scores

SEQUENCES = _table(
    [
        Formula("count", "t", "(x == t).sum(1)", modular=True),
        Formula("count from", "t", "(x >= t).sum(1)", modular=True),
        Formula("count mod", "mr", "(x % m == r).sum(1)", modular=True),
        Formula("count of set", "k", "((k >> x) & 1).sum(1)", modular=True),
        Formula("count within", "tij", "(x[:, i:j] == t).sum(1)", modular=True),
        Formula("counts", "tu", "(x == t).sum(1) - (x == u).sum(1)", modular=True),
        Formula("set less set", "ku", "((k >> x) & 1).sum(1) - ((u >> x) & 1).sum(1)"),
        Formula("counts of two", "tu", "(x == t).sum(1) + (x == u).sum(1)", modular=True),
        Formula("sum", "", "x.sum(1)", modular=True),
        Formula("sum within", "ij", "x[:, i:j].sum(1)", modular=True),
        Formula("sum of halves", "h", "x[:, :h].sum(1) - x[:, h:].sum(1)"),
        Formula("alternating sum", "", "alternating(x)", _S, modular=True),
        Formula("place-weighted sum", "", "(x * np.arange(1, x.shape[1] + 1)).sum(1)", modular=True),
        Formula("largest", "", "x.max(1)", modular=True),
        Formula("smallest", "", "x.min(1)", modular=True),
        Formula("range", "", "x.max(1) - x.min(1)", modular=True),
        Formula("place of largest", "", "x.argmax(1)", modular=True),
        Formula("place of smallest", "", "x.argmin(1)", modular=True),
        Formula("distinct", "", "distinct(x)", _S, modular=True),
        Formula("commonest", "", "most_common(x)", _S, modular=True),
        Formula("times of commonest", "", "times(x).max(1)", _S, modular=True),
        Formula("once", "", "(times(x) == 1).sum(1)", _S, modular=True),
        Formula("token", "i", "x[:, i]", modular=True),
        Formula("two tokens", "ijuv", "u * x[:, i] + v * x[:, j]", modular=True),
        Formula("tokens xor", "ij", "x[:, i] ^ x[:, j]"),
        Formula("same tokens", "ij", "(x[:, i] == x[:, j]) * 1"),
        Formula("bigram", "ijk", "k * x[:, i] + x[:, j]"),
        Formula("inversions", "", "inversions(x)", _S, modular=True),
        Formula("rises", "", "(x[:, 1:] > x[:, :-1]).sum(1)", modular=True),
        Formula("falls", "", "(x[:, 1:] < x[:, :-1]).sum(1)", modular=True),
        Formula("peaks", "", "((x[:, 1:-1] > x[:, :-2]) & (x[:, 1:-1] > x[:, 2:])).sum(1)", modular=True),
        Formula("repeats", "k", "(x[:, k:] == x[:, :-k]).sum(1)", modular=True),
        Formula("largest step", "", "np.abs(np.diff(x, axis=1)).max(1)", modular=True),
        Formula("sum of steps", "", "np.abs(np.diff(x, axis=1)).sum(1)", modular=True),
        Formula("mirror matches", "", "(x == x[:, ::-1]).sum(1) // 2", modular=True),
        Formula("shift matches", "k", "(x == np.roll(x, k, axis=1)).sum(1)", modular=True),
        Formula("halves match", "", "(x[:, : x.shape[1] // 2] == x[:, -(x.shape[1] // 2) :]).sum(1)", modular=True),
        Formula("bigrams", "tu", "occurrences(x, t, u)", _S, modular=True),
        Formula("in order", "tu", "ordered(x, t, u)", _S, modular=True),
        Formula("trigrams", "tuv", "((x[:, :-2] == t) & (x[:, 1:-1] == u) & (x[:, 2:] == v)).sum(1)"),
        Formula("longest run", "", "1 + longest_run(x[:, 1:] == x[:, :-1])", _S, modular=True),
        Formula("longest run of", "t", "longest_run(x == t)", _S, modular=True),
        Formula("longest rise", "", "1 + longest_run(x[:, 1:] > x[:, :-1])", _S, modular=True),
        Formula("longest run from", "t", "longest_run(x >= t)", _S, modular=True),
        Formula("first place", "t", "first_place(x == t)", _S, modular=True),
        Formula("last place", "t", "last_place(x == t)", _S, modular=True),
        Formula("first place from", "t", "first_place(x >= t)", _S, modular=True),
        Formula("which first", "tu", "first_place(x == t) - first_place(x == u)", _S),
        Formula("which last", "tu", "last_place(x == t) - last_place(x == u)", _S),
        Formula("span", "t", "last_place(x == t) - first_place(x == t)", _S),
        Formula("first unique", "", "token_at(x, first_place(times(x) == 1))", _S, modular=True),
        Formula("last unique", "", "token_at(x, last_place(times(x) == 1))", _S, modular=True),
        Formula("first repeated", "", "token_at(x, first_place(times(x) > 1))", _S, modular=True),
        Formula("after first", "t", "token_at(x, first_place(x == t) + 1)", _S, modular=True),
        Formula("after last", "t", "token_at(x, last_place(x == t) + 1)", _S, modular=True),
        Formula("before first", "t", "token_at(x, first_place(x == t) - 1)", _S, modular=True),
        Formula("pointed at", "i", "token_at(x, x[:, i] % x.shape[1])", _S, modular=True),
        Formula("balance", "t", "walk(x >= t, x < t)[:, -1]", _S),
        Formula("highest of walk", "t", "walk(x >= t, x < t).max(1)", _S),
        Formula("lowest of walk", "t", "walk(x >= t, x < t).min(1)", _S),
        Formula("highest of two", "tu", "walk(x == t, x == u).max(1)", _S),
        Formula("lowest of two", "tu", "walk(x == t, x == u).min(1)", _S),
        Formula("highest of set", "k", "walk((k >> x) & 1 == 1, (k >> x) & 1 == 0).max(1)", _S),
        Formula("lowest of set", "k", "walk((k >> x) & 1 == 1, (k >> x) & 1 == 0).min(1)", _S),
        Formula("neighbours in set", "whijk", "neighbours(x, w, (h, i, j, k))", _S),
        Formula("walk by parity", "", "walk(x % 2 == 1, x % 2 == 0).max(1)", _S),
        Formula("low of walk by parity", "", "walk(x % 2 == 1, x % 2 == 0).min(1)", _S),
        Formula("zero crossings", "t", "(walk(x >= t, x < t) == 0).sum(1)", _S),
    ]
)
"""Of a short sequence of tokens, by name."""

_I = image_scores

IMAGES = _table(
    [
        Formula("dot", "r", "(x * e[r]).sum((1, 2))", many=_I.dots),
        Formula("signed", "r", "(x * (2 * e[r] - 1)).sum((1, 2))", many=_I.signed),
        Formula("l1", "r", "np.abs(x - e[r]).sum((1, 2))", many=_I.l1s),
        Formula("l2", "r", "((x - e[r]) ** 2).sum((1, 2))", many=_I.l2s),
        Formula("cosine", "r", "cosine(x, e[r])", _I, many=_I.cosines),
        Formula("ink", "ijkl", "x[:, i:j, k:l].sum((1, 2))", many=_I.inks),
        Formula(
            "ink less ink",
            "ijklmnop",
            "x[:, i:j, k:l].sum((1, 2)) - x[:, m:n, o:p].sum((1, 2))",
            many=_I.ink_less_ink,
        ),
        Formula("mirror left to right", "", "np.abs(x - x[:, :, ::-1]).sum((1, 2))"),
        Formula("mirror top to bottom", "", "np.abs(x - x[:, ::-1]).sum((1, 2))"),
        Formula("half turn", "", "np.abs(x - x[:, ::-1, ::-1]).sum((1, 2))"),
        Formula("diagonal", "", "np.abs(x - x.transpose(0, 2, 1)).sum((1, 2))"),
        Formula("other diagonal", "", "np.abs(x - x[:, ::-1, ::-1].transpose(0, 2, 1)).sum((1, 2))"),
        Formula("quarter turn", "", "np.abs(x - np.rot90(x, axes=(1, 2))).sum((1, 2))"),
        Formula("energy", "", "(x**2).sum((1, 2))"),
        Formula("largest pixel", "", "x.max((1, 2))"),
        Formula("bright pixels", "t", "(16 * x >= t).sum((1, 2))"),
        Formula("steps down", "", "np.abs(np.diff(x, axis=1)).sum((1, 2))"),
        Formula("steps across", "", "np.abs(np.diff(x, axis=2)).sum((1, 2))"),
        Formula("centre across", "", "centre(x, 2)", _I),
        Formula("centre down", "", "centre(x, 1)", _I),
        Formula("spread across", "", "scatter(x, 2)", _I),
        Formula("spread down", "", "scatter(x, 1)", _I),
        Formula("concept", "i", "c[:, i]"),
    ]
)
"""Of an image of one channel, by name."""
