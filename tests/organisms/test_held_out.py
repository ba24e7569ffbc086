"""The frozen kinds are what loops say they are, and have not changed since they were frozen."""

from __future__ import annotations

import hashlib
import math
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from candling.organisms.programs import KINDS, held_out, majority
from candling.organisms.programs.held_out import FAMILY_OF, FROZEN, pose_frozen
from candling.organisms.programs.problem import MOST

EVERY = pytest.mark.parametrize("kind", FROZEN)
Row = Any
PAGE = Path(__file__).parents[2] / "docs/decisions/0025-frozen-kinds.md"


def flat(row: Row) -> list[float]:
    return [value for line in row for value in line]


def quarter(row: Row, own: dict[str, Any]) -> int:
    amounts = [0.0] * 4
    for i in range(8):
        for j in range(8):
            amounts[2 * (i >= own["row"]) + (j >= own["column"])] += row[i][j]
    return amounts.index(max(amounts))


def slowly(row: Row, name: str, own: dict[str, Any]) -> int:
    """The rule on plain numbers."""

    def inside(score: float) -> int:
        return int(own["low"] <= score <= own["high"])

    def to(name: str) -> float:
        return math.dist(flat(row), flat(own[name].tolist()[0]))

    return {
        "nearer": lambda: int(to("one") < to("other")),
        "like": lambda: int(to("template") <= own["most"]),
        "fullest_quarter": lambda: quarter(row, own),
        "disc": lambda: int((row[0] - own["row"]) ** 2 + (row[1] - own["column"]) ** 2 <= own["most"]),
        "digit_sums": lambda: inside(sum(int(digit) for digit in f"{row[0]}{row[1]}")),
        "ones_in_common": lambda: int((row[0] & row[1]).bit_count() >= own["least"]),
        "extreme": lambda: inside(max(row) if own["largest"] else min(row)),
        "runs": lambda: int(max(len(list(same)) for _, same in groupby(row)) >= own["least"]),
        "tokens_differ": lambda: inside(len(set(row))),
        "greatest_early": lambda: int(row.index(max(row)) < own["before"]),
        "last_is_old": lambda: int(row[-1] in row[:-1] or row[-1] in own["tokens"]),
    }[name]()


def test_three_kinds_a_family_or_more_and_none_of_them_in_the_list():
    assert all(list(FAMILY_OF.values()).count(family) >= 3 for family in ("images", "pairs", "sequences"))
    assert not set(FROZEN) & set(KINDS)


def test_nothing_has_changed_since_they_were_frozen():
    content = Path(held_out.__file__).read_bytes()
    assert hashlib.sha256(content).hexdigest() in PAGE.read_text(encoding="utf-8")


@EVERY
@settings(max_examples=4, deadline=None)
@given(data=st.data())
def test_a_frozen_program_is_what_loops_say(kind: str, data: st.DataObject):
    problem = pose_frozen(kind, data.draw(st.integers(0, 10**6)))
    rows = torch.tensor(data.draw(st.lists(st.integers(0, len(problem.unlabelled) - 1), min_size=1, max_size=40)))
    inputs = problem.unlabelled.take(rows)
    x = inputs.x[:, 0].double() if problem.family == "images" else inputs.x
    assert isinstance(problem.truth, partial)
    name, own = problem.truth.func.__name__, problem.truth.keywords
    assert problem.truth(inputs).tolist() == [slowly(row, name, own) for row in x.tolist()]


@EVERY
def test_a_frozen_kind_is_balanced_and_depends_on_its_seed_alone(kind: str):
    first, again, other = pose_frozen(kind, 71), pose_frozen(kind, 71), pose_frozen(kind, 72)
    assert first.says == again.says
    assert torch.equal(first.training.x, again.training.x)
    assert not torch.equal(first.training.x[:100], other.training.x[:100])
    for part in (first.training, first.test, first.unlabelled):
        assert majority(first.truth(part)) <= MOST
    assert set(first.truth(first.everything()).tolist()) == set(range(first.classes))
