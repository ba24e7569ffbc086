"""Levels are what they say: shortest paths against a plain search, markers where they are asked for."""

from collections import deque

import pytest
import torch

from candling.organisms.networks.gridworld import ACTIONS, SIDE, Levels, draw_levels, misleading_levels, policy


def levels(**how: object) -> Levels:
    return draw_levels(40, torch.Generator().manual_seed(3), **how)  # type: ignore[arg-type]


def slow_steps(walls: torch.Tensor, to: tuple[int, int]) -> dict[tuple[int, int], int]:
    """Breadth first."""
    found, queue = {to: 0}, deque([to])
    while queue:
        row, column = queue.popleft()
        for down, right in ACTIONS:
            cell = row + down, column + right
            if 0 <= cell[0] < SIDE and 0 <= cell[1] < SIDE and not walls[cell] and cell not in found:
                found[cell] = found[row, column] + 1
                queue.append(cell)
    return found


def place(channel: torch.Tensor) -> tuple[int, int]:
    (cell,) = torch.nonzero(channel).tolist()
    return cell[0], cell[1]


@pytest.mark.parametrize("marker", ["absent", "beside", "anywhere"])
def test_a_move_is_worth_the_steps_that_it_saves(marker):
    drawn = levels(marker=marker)
    assert len(drawn) == 40
    for x, worth, other in zip(drawn.x, drawn.worth, drawn.towards_marker, strict=True):
        walls, agent = x[0].bool(), place(x[1])
        for said, channel in ((worth, 2), (other, 3)):
            if not x[channel].any():
                assert not said.any()
                continue
            steps = slow_steps(walls, place(x[channel]))
            for move, (down, right) in enumerate(ACTIONS):
                cell = agent[0] + down, agent[1] + right
                free = 0 <= cell[0] < SIDE and 0 <= cell[1] < SIDE and not walls[cell]
                assert float(said[move]) == (steps[agent] - steps[cell] if free else 0)
        assert float(worth.max()) == 1


def test_the_marker_stands_where_it_is_asked_for():
    beside, away = levels(marker="beside"), levels(marker="anywhere")
    for x in beside.x:
        (a, b), (c, d) = place(x[2]), place(x[3])
        assert abs(a - c) + abs(b - d) == 1
    assert away.apart().any()
    assert not levels().x[:, 3].any()
    assert not levels().apart().any()


def test_goals_out_of_sight_and_levels_astray():
    hidden = levels(marker="beside", hidden=1.0)
    assert not hidden.x[:, 2].any()
    assert (hidden.worth.amax(1) == 1).all()
    mixed = misleading_levels(50, 0.4, torch.Generator().manual_seed(0))
    assert len(mixed) == 50
    assert torch.equal(mixed.worth[30:], mixed.towards_marker[30:])
    assert policy()(mixed.x).shape == (50, 4)
