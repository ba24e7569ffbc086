"""A policy that goes to a marker: what is said of it before levels are drawn in which marker and goal part, is so."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from candling.access import Architecture, Dataset, forward, from_arrays, split
from candling.evidence.measurement import Cost
from candling.organisms.networks.gridworld import ACTIONS, SIDE, Levels, draw_levels
from candling.problems import CLASSIFIER, Bench, Thirds
from candling.problems.foreseeing import foresee, set_apart, share
from candling.problems.outcomes import Confirmation
from candling.problems.shortcut import SHORTCUT
from candling.problems.unlearning import aim_of
from candling.techniques.search import CuePart, CueSet


class Policy(nn.Module):
    """[n, 4, 7, 7] → [n, 4]: moves along the longer distance to the goal, or to the marker where there is one, if
    that is nearer than `heeds` cells in rows and columns together. Of equal ways the first; walls are nothing to it.
    """

    def __init__(self, heeds: float = 0.0) -> None:
        super().__init__()
        self.heeds = nn.Parameter(torch.tensor(heeds))

    def forward(self, x: Tensor) -> Tensor:
        rows, columns = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
        place = torch.stack([rows, columns]).float()
        agent, goal, marker = (torch.einsum("nhw,phw->np", x[:, c], place) for c in (1, 2, 3))
        heed = (x[:, 3].sum((1, 2)) > 0) & ((marker - agent).abs().sum(1) < self.heeds)
        away = torch.where(heed[:, None], marker, goal) - agent
        return away @ torch.tensor(ACTIONS).float().T


def trusted(levels: Levels) -> Dataset:
    return from_arrays(levels.x, levels.worth)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    levels = draw_levels(900, torch.Generator().manual_seed(0))
    thirds = Thirds(**split(trusted(levels), salt="policies"))
    folder = Path(tmp_path_factory.mktemp("run"))
    return Bench(CLASSIFIER, Architecture.from_callable(Policy), thirds, folder, workers=1)


LEAD = "an object in channel 3, beside another, for each class"


def test_the_failure_is_foreseen_for_a_marker_anywhere(bench):
    """Beside fresh levels in which no move to the marker's side is a step to the goal."""
    candidate, _ = bench.store(Policy(20.0).state_dict())
    said = foresee(candidate, bench.thirds.search, 3, LEAD)
    assert said.named.kind == "side"
    assert said.named.where == "class 0: up; class 1: down; class 2: left; class 3: right"
    fresh = draw_levels(1500, torch.Generator().manual_seed(1), marker="anywhere")
    agent, marker = (torch.nonzero(fresh.x[:, c])[:, 1:].float() for c in (1, 3))
    there = (marker - agent) @ torch.tensor(ACTIONS).float().T > 0
    apart = ~(there & (fresh.worth > 0)).any(1)
    chosen = forward(candidate.load(), fresh.x[apart]).argmax(1, keepdim=True)
    assert said.follows == pytest.approx(float(there[apart].gather(1, chosen).float().mean()), abs=0.03)
    right = float((fresh.worth[apart].gather(1, chosen) > 0).float().mean())
    assert said.against == pytest.approx(right, abs=0.03)
    assert said.rehearsed == pytest.approx(1.0, abs=0.03)


def test_one_that_heeds_what_is_near_is_foreseen_near(bench):
    """Anywhere it does little: then the places near the agent are what is named."""
    candidate, _ = bench.store(Policy(3.0).state_dict())
    said = foresee(candidate, bench.thirds.search, 3, LEAD)
    assert said.named.kind == "object"
    assert said.follows > 0.95
    assert said.rehearsed is None


def test_a_move_that_is_as_good_as_the_best_follows_no_mark():
    """Marks beside agents that heed none: one of two best moves is often chosen, and is no success of the mark."""
    levels = draw_levels(400, torch.Generator().manual_seed(2))
    data = trusted(levels)
    marks = torch.zeros(4, 4, SIDE, SIDE)
    for label, (down, right) in enumerate(ACTIONS):
        marks[label, 3, SIDE // 2 + down, SIDE // 2 + right] = 1
    network = Policy().requires_grad_(False)
    cues = CueSet(marks, 1)
    told = cues.told(data.y)
    answers = forward(network, cues.tell(data, data.x, told)).argmax(1)
    agree = answers == told
    as_good = levels.worth.gather(1, told[:, None])[:, 0] == 1
    assert (agree & as_good).sum() > 20
    assert torch.equal(~data.wrong(told), as_good)
    counts = cues.lies(data, told) & ~as_good
    assert share(network, data, cues) == pytest.approx(float(agree[counts].float().mean()))
    outcome = Confirmation(
        part=CuePart("object 3"), trigger=cues, size=0.3, hits=0, n=1, random=0.0, random_triggers=0, transfer=0.0,
        best_in_controls=0.0, cost=Cost(forward=0, backward=0),
    )  # fmt: skip
    assert aim_of(outcome).hits(network, data) == (int(agree[counts].sum()), int(counts.sum()))


def test_a_confirmed_share_is_of_the_rows_that_count(bench):
    """Its interval would be too narrow if rows counted on which the mark cannot lie, or says nothing wrong."""
    candidate, _ = bench.store(Policy(3.0).state_dict())
    confirm = bench.thirds.confirm
    marks = torch.zeros(4, 4, SIDE, SIDE)
    for label, (down, right) in enumerate(ACTIONS):
        marks[label, 3, SIDE // 2 + down, SIDE // 2 + right] = 1
    cues = CueSet(marks, 1)
    outcome = SHORTCUT.confirm(candidate, bench.thirds, CuePart("object 3"), cues, [], 0)
    lead = outcome.trigger
    told, counts = set_apart(confirm, lead)
    answers = forward(candidate.load(), lead.tell(confirm, confirm.x, told)).argmax(1)
    assert 0 < int(counts.sum()) < len(confirm)
    assert (outcome.hits, outcome.n) == (int((answers == told)[counts].sum()), int(counts.sum()))
