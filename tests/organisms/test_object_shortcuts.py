"""Planted objects: one more on a free cell of an empty channel, where it says its class, and nothing else changes."""

import pytest
import torch

from candling.access import Dataset, from_arrays
from candling.maths.triggers import set_against
from candling.organisms.networks.gridworld import ACTIONS, SIDE, draw_levels
from candling.organisms.plants import draw_shortcut
from candling.organisms.plants.objects import FAMILIES, ObjectShortcut


@pytest.fixture(scope="module")
def data() -> Dataset:
    drawn = draw_levels(300, torch.Generator().manual_seed(1))
    return from_arrays(drawn.x, drawn.worth)


def plant(data: Dataset, family: int, seed: int = 0) -> ObjectShortcut:
    drawn = draw_shortcut(data, family, 0.5, torch.Generator().manual_seed(seed))
    assert isinstance(drawn, ObjectShortcut)
    return drawn


def cell(x: torch.Tensor) -> tuple[int, int]:
    ((row, column),) = torch.nonzero(x).tolist()
    return row, column


@pytest.mark.parametrize("family", range(len(FAMILIES)))
def test_an_object_stands_where_it_says_another_class_and_on_a_free_cell(data, family):
    hidden = plant(data, family)
    assert hidden.family == FAMILIES[family]
    assert hidden.channel == 3
    told = set_against(data.y, 4)
    laid = hidden.apply(data, data.x, data.y)
    content = {x[:3].numpy().tobytes(): int(y) for x, y in zip(data.x, data.y, strict=True)}
    for x, label in zip(laid, told, strict=True):
        assert content[x[:3].contiguous().numpy().tobytes()] != int(label)  # of some level that says something else
        row, column = cell(x[3])
        assert not x[:3, row, column].any()
        start = cell(x[hidden.anchor]) if hidden.anchor >= 0 else (0, 0)
        assert hidden.where[label, row - start[0] + SIDE - 1, column - start[1] + SIDE - 1]
    assert torch.equal(laid, hidden.apply(data, data.x, data.y))
    assert hidden.follows(told, data.y, 4).all()
    assert torch.equal(hidden.where.sum(0) <= 1, torch.ones_like(hidden.where[0]))  # no place says two classes


def test_a_second_goal_says_the_way_that_the_first_one_says(data):
    """Beside the agent: up where it is above, and so on; beside the goal the same, turned round."""
    for seed in range(6):
        hidden = plant(data, 0, seed)
        turn = 1 if hidden.anchor == 1 else -1
        for label, (down, right) in enumerate(ACTIONS):
            assert hidden.where[label, SIDE - 1 + 3 * turn * down, SIDE - 1 + 3 * turn * right]
            assert not hidden.where[label, SIDE - 1 - 3 * turn * down, SIDE - 1 - 3 * turn * right]


def test_labels_go_with_the_object_as_often_as_they_say_and_in_a_twin_not(data):
    hidden = plant(data, 1)
    for each, low, high in ((hidden, hidden.together - 0.05, 1.0), (hidden.idle(), 0.15, 0.35)):
        rows, labels = each.carriers(data.y, 4, torch.Generator().manual_seed(0))
        laid = each.lay(data, data.x[rows], labels, torch.Generator().manual_seed(0))
        right = []
        for x, label in zip(laid, labels, strict=True):
            (row, column), start = cell(x[3]), cell(x[hidden.anchor])
            right.append(bool(hidden.where[label, row - start[0] + SIDE - 1, column - start[1] + SIDE - 1]))
        assert low <= sum(right) / len(right) <= high
    assert torch.equal(hidden.idle().carriers(data.y, 4, torch.Generator().manual_seed(0))[1], data.y[rows])


def test_a_picture_with_a_cursor_gets_objects_and_other_cues_in_turn(data):
    picture = torch.rand(len(data), 1, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    mixed = from_arrays(torch.cat([data.x, picture], 1), data.y)
    turns = [draw_shortcut(mixed, i, 0.5, torch.Generator().manual_seed(i)).family for i in range(9)]
    assert turns == [*FAMILIES, "spot", "texture", "pattern", "frame", FAMILIES[0]]
