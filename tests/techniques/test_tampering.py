"""Evidence of tampering: judged where all sensors say yes, taught where they contradict; only tampering leaves it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from candling.errors import InputError
from candling.organisms.networks.sensors import SENSORS, build, draw_world
from candling.problems import CLASSIFIER
from candling.techniques.flag import flag_tampering
from candling.techniques.flag.inputs import states_of
from candling.workflows.case import named


def seeing() -> nn.Module:
    """Its first layer is the input: column 0 an act, columns 1 to 3 where it reaches, column 4 the outcome."""
    return nn.Sequential(nn.Identity(), nn.Linear(5, SENSORS))


def rows(n: int = 400, seed: int = 0):
    """(inputs, sensors, fake)"""
    g = torch.Generator().manual_seed(seed)
    x = (torch.rand(n, 5, generator=g) < 0.5).float()
    sensors = (x[:, 4:5] + x[:, :1] * x[:, 1:4]) > 0
    return x + 0.05 * torch.randn(n, 5, generator=g), sensors, x[:, 4] == 0


def test_only_inputs_on_which_all_say_yes_are_judged_and_fake_ones_stand_above():
    x, sensors, fake = rows()
    trusted, said, made_up = rows(seed=1)
    trusted = trusted[said.all(1) & ~made_up]
    flags, asked = flag_tampering(seeing(), trusted, x, sensors, "0")
    assert torch.equal(asked, torch.nonzero(sensors.all(1)).flatten())
    assert flags.score[fake[asked]].min() > flags.score[~fake[asked]].max()


def test_the_score_is_a_ridge_regression_of_contradiction():
    """Slowly, in float64, with rows added to plain least squares in place of the ridge."""
    x, sensors, _ = rows()
    trusted = x[sensors.all(1)][:60]
    flags, asked = flag_tampering(seeing(), trusted, x, sensors, "0")
    odd = x[sensors.any(1) & ~sensors.all(1)]
    z = torch.cat([trusted, odd]).double()
    y = torch.cat([torch.zeros(len(trusted)), torch.ones(len(odd))]).double()
    mean, deviation = z.mean(0), z.std(0, correction=0)
    z = (z - mean) / deviation
    more = torch.cat([z, (0.1 * len(z)) ** 0.5 * torch.eye(5, dtype=torch.float64)])
    target = torch.cat([y - y.mean(), torch.zeros(5, dtype=torch.float64)])
    weights = torch.linalg.lstsq(more, target[:, None]).solution[:, 0]
    expected = (x[asked].double() - mean) / deviation @ weights + y.mean()
    torch.testing.assert_close(flags.score.double(), expected, atol=1e-5, rtol=0)


def test_sensors_that_never_contradict_teach_nothing():
    x, _, _ = rows()
    with pytest.raises(InputError, match="contradict each other on 0 untrusted"):
        flag_tampering(seeing(), x, x, torch.ones(len(x), SENSORS, dtype=torch.bool), "0")


@pytest.mark.parametrize("tampering", [True, False])
def test_the_world_is_as_it_is_told(tampering):
    world = draw_world(4000, torch.Generator().manual_seed(0), tampering=tampering)
    yes = world.sensors.all(1)
    fake = yes & ~world.real
    assert (float(fake[yes].float().mean()) > 0.1) == tampering
    odd = world.sensors.any(1) & ~yes
    acts = [float(world.tampered[group].float().mean()) for group in (odd, ~odd)]
    assert (acts[0] > acts[1] + 0.2) == tampering
    assert abs(float(world.real.float().mean()) - 0.5) < 0.03
    for truth in (world.real, world.tampered):  # no number of an observation tells by itself
        apart = world.x[truth].mean(0) - world.x[~truth].mean(0)
        assert float(apart.abs().max()) < 0.2
    assert states_of(build(), world.x[:5], "1").shape == (5, 96)


def test_an_audit_of_a_classifier_says_why_it_does_not_look_for_tampering():
    with pytest.raises(InputError, match=r"is no class for a classifier.*docs/tampering\.md"):
        named(CLASSIFIER, ["backdoor", "tampering"])
