"""Bands: equal shares, edges that no value lies on, and scores whose highest is the band that the output lies in."""

import copy
import math

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import nn

from candling.access import Dataset, banded, check_fits, forward, from_arrays, load
from candling.access.bands import Bands, fit_bands

VALUES = hnp.arrays(np.float32, st.integers(2, 400), elements=st.floats(-1e6, 1e6, width=32), unique=False).filter(
    lambda v: len(np.unique(v)) > 1
)


def slow_band(value: float, edges: tuple[float, ...]) -> int:
    return sum(value > edge for edge in edges)


@settings(max_examples=60, deadline=None)
@given(VALUES)
def test_every_band_holds_values_and_equal_values_share_one(values):
    bands = fit_bands(values)
    labels = bands.label(torch.from_numpy(values))
    assert set(labels.tolist()) == set(range(len(bands)))
    assert labels.tolist() == [slow_band(float(v), bands.edges) for v in values]
    assert all(a < b for a, b in zip(bands.centres, bands.centres[1:], strict=False))
    assert not set(bands.edges) & set(values.astype(float).tolist()) or len(np.unique(values)) > 200
    assert len(bands.names()) == len(bands) <= 5


def test_bands_hold_equal_shares_of_different_values():
    values = np.exp(np.random.default_rng(0).normal(size=900)).astype(np.float32)
    bands = fit_bands(values)
    counts = torch.bincount(bands.label(torch.from_numpy(values)))
    assert len(bands) == 5
    assert counts.max() - counts.min() <= 1


def test_few_values_become_a_band_each_and_one_value_none():
    assert fit_bands(np.array([3.0, 1.0, 1.0, 7.0])).edges == (2.0, 5.0)
    assert fit_bands(np.array([3.0, 3.0])) is None


def test_values_that_scores_cannot_tell_apart_share_a_band():
    for crowd in ([1e-11] + [0.0] * 60, [-1e-45] + [0.0] * 60, [1e-11] * 60 + [0.0] * 60):
        bands = fit_bands(np.array([3e4, *crowd]))
        assert len(bands) == 2
        assert bands.scores(torch.tensor([460.0, 2e4])).argmax(-1).tolist() == [0, 1]


@settings(max_examples=200, deadline=None)
@given(VALUES, st.floats(-3, 3), st.booleans())
def test_the_highest_score_is_the_band_of_the_output_and_gives_it_back(values, at, column):
    bands = fit_bands(values.astype(np.float64))
    output = torch.tensor([bands.mean + bands.spread * at], dtype=torch.float64)
    if min(abs(float(output) - edge) for edge in bands.edges) < 1e-9 * (bands.spread + abs(bands.mean)):
        return
    scores = bands.scores(output[:, None] if column else output)
    assert int(scores.argmax()) == slow_band(float(output), bands.edges)
    assert math.isclose(float(bands.values(bands.output(scores))[0]), float(output), rel_tol=1e-6, abs_tol=1e-6)


def test_a_usual_band_leads_its_neighbours_by_two_nats_at_its_centre():
    bands = Bands((0.5, 1.5, 2.5), (0.0, 1.0, 2.0, 3.0), 1.5, 1.2)
    scores = bands.scores(torch.tensor([1.0]))[0]
    assert torch.allclose(scores[1] - scores[[0, 2]], torch.tensor(2.0), atol=1e-5)


def regressor() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 1))


def valued(n: int = 300) -> Dataset:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(n, 3, generator=g)
    return from_arrays(x, 40 + 10 * x[:, 0])


def test_a_banded_network_keeps_its_state_and_leaves_the_users_alone():
    network, data = regressor(), valued()
    before = copy.deepcopy(network.state_dict())
    model = load(network)
    seen = banded(model, data.task.bands)
    assert check_fits(data, model.module) == len(data.task.bands) == data.classes
    assert seen.module.state_dict().keys() == before.keys()
    assert network(data.x).shape == (300, 1)
    assert all(torch.equal(network.state_dict()[name], value) for name, value in before.items())
    scores = forward(seen, data.x)
    assert torch.equal(scores.argmax(-1), data.task.bands.label(forward(network, data.x)[:, 0]))
    assert seen.architecture()(data.x).shape == scores.shape
    assert (seen.sha256, seen.architecture.sha256) == (model.sha256, model.architecture.sha256)


def test_the_loss_is_squared_error_over_the_variance_and_the_default_measure_r_squared():
    network, data = regressor(), valued()
    scores = forward(banded(load(network), data.task.bands), data.x)
    wrong = (network(data.x)[:, 0].detach().double() - data.values.double()).square().mean()
    variance = data.values.double().var(correction=0)
    assert math.isclose(float(data.task.loss(scores, data.targets)), float(wrong / variance), rel_tol=1e-4)
    assert math.isclose(data.measure(scores), float(1 - wrong / variance), rel_tol=1e-4)
    assert data.task.taught(torch.tensor([0])).tolist() == [torch.tensor(data.task.bands.centres[0]).item()]


def test_parts_keep_the_bands_of_the_whole_and_their_own_values():
    data = valued()
    part = data.take([5, 2])
    assert torch.equal(part.values, data.values[[5, 2]])
    assert part.classes == data.classes
    assert part.task is data.task
    assert part.sha256 != data.sha256
    assert data.to("cpu").sha256 == data.sha256
    assert from_arrays(data.x, data.values).sha256 == data.sha256 != from_arrays(data.x, data.values + 1).sha256
