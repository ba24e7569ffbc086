"""Names of a record's arrays: the first problem class's are plain, every other's stand under its name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

T = TypeVar("T")


def under(problem: str, problems: Sequence[str], arrays: Mapping[str, T]) -> dict[str, T]:
    """The class's own arrays, named as the record of a run over these classes holds them."""
    prefix = _prefix(problem, problems)
    return {prefix + name: array for name, array in arrays.items()}


def of_problem(problem: str, problems: Sequence[str], arrays: Mapping[str, T]) -> dict[str, T]:
    """What `under` was given."""
    prefix = _prefix(problem, problems)
    others = tuple(_prefix(other, problems) for other in problems[1:])
    if prefix:
        return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
    return {name: array for name, array in arrays.items() if not name.startswith(others)} if others else dict(arrays)


def _prefix(problem: str, problems: Sequence[str]) -> str:
    return "" if problem == problems[0] else f"{problem}/"
