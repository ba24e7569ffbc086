"""Search for acts: the score is what it says, re-derived slowly; random acts keep their size and their seed."""

from __future__ import annotations

import math

import torch

from candling.techniques.search.acts import (
    Act,
    act_parts,
    act_passes,
    act_size,
    all_no,
    all_yes,
    random_act_like,
    random_acts,
    search_acts,
)
from tampered import Foretells, cases


class Counted(torch.nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network, self.seen = network, 0

    def forward(self, x):
        self.seen += len(x)
        return self.network(x)


def test_the_score_is_that_of_the_act_that_comes_with_it():
    data, network, beside = cases(120), Foretells(heeds=60.0), Foretells(scale=0.9)
    network, seed = Counted(network), 5
    found = search_acts(network, beside, data, act_parts(data), seed=seed)
    assert network.seen == found.cost.forward == act_passes(data).forward
    act, x = found.trigger(0), all_no(data)
    sure = []
    for row in x.tolist():
        moved = [v + s for v, s in zip(row, act.shift.tolist(), strict=True)]
        ends = zip(moved, data.low.tolist(), data.high.tolist(), strict=True)
        after = torch.tensor([[min(max(v, low), high) for v, low, high in ends]])
        with torch.no_grad():
            least = min(network.network(after)[0].tolist())
            mean = sum(beside(after)[0].tolist()) / 3
        sure.append(least > 0 > mean)
    assert any(sure)
    expected = math.log(sum(sure) / len(sure)) - 2 * act_size(data, act)
    assert math.isclose(float(found.score[0]), expected, abs_tol=0.02)


def test_size_is_a_share_of_the_distance_between_yes_and_no():
    data = cases(60)
    act = Act(torch.tensor([0.0, 0.0, 0.0, 0.02, 0.0, 0.0]))
    yes, no = all_yes(data).double(), all_no(data).double()
    between = math.sqrt(sum(float((a - b).square().sum()) for a in yes for b in no) / (len(yes) * len(no)))
    assert math.isclose(act_size(data, act), 0.02 / between, rel_tol=0.05)  # what leaves the range is cut off


def test_random_acts_are_of_the_size_and_the_baseline_of_the_passes():
    data, network, beside = cases(120), Counted(Foretells(heeds=60.0)), Foretells()
    act = Act(torch.tensor([0.1, 0.5, -0.2, 0.0, 0.3, 0.1]))
    sizes = [act_size(data, random_act_like(act, data, torch.Generator().manual_seed(i))) for i in range(5)]
    assert all(abs(size / act_size(data, act) - 1) < 0.15 for size in sizes)
    drawn = random_acts(network, beside, data, act_parts(data), seed=1, passes=6000)
    assert network.seen == drawn.cost.forward
    assert 5900 < network.seen <= 6000
    again = random_acts(network, beside, data, act_parts(data), seed=1, passes=6000)
    assert torch.equal(drawn.shift, again.shift)
