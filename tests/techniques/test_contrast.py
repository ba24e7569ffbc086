"""A contrast direction, added, moves the mean state to that of changed inputs; its control is as long."""

from __future__ import annotations

import torch
from torch import nn

from candling.access import intervene, observe
from candling.techniques.locate import contrasts


def test_adding_it_gives_the_mean_of_the_changed_states_and_taking_it_away_undoes_a_shift():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3)).eval()
    plain, shift = torch.randn(20, 5), torch.tensor([0.5, 0.0, -1.0, 0.0, 2.0])
    first, second = contrasts(network, plain, plain + shift, ["0", "1"])
    # At a linear site a shift of the input is its contrast exactly, for every input.
    torch.testing.assert_close(intervene(network, plain, {"0": first.add()}), network(plain + shift))
    torch.testing.assert_close(intervene(network, plain + shift, {"0": first.add(-1.0)}), network(plain))
    moved = observe(network, plain, ["1"]).activations["1"] + second.direction
    torch.testing.assert_close(moved.mean(0), torch.tanh(network[0](plain + shift)).mean(0))


def test_the_control_has_its_length_and_another_direction():
    network = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Flatten(), nn.Linear(108, 2)).eval()
    (found,) = contrasts(network, torch.zeros(4, 1, 8, 8), torch.ones(4, 1, 8, 8), ["0"])
    other = found.random(torch.Generator().manual_seed(0))
    torch.testing.assert_close(other.direction.norm(), found.direction.norm())
    cosine = torch.nn.functional.cosine_similarity(other.direction.flatten(), found.direction.flatten(), 0)
    assert abs(float(cosine)) < 0.5
