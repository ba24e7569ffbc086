"""Broad changes: sizes mean what they say, the information is the textbook's, a switch built in by hand is found."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from candling.access import from_arrays
from candling.techniques.search import BroadChange, change_parts, random_change_like, random_changes, search_changes
from candling.techniques.search.broad_change import LIGHT, change_size, components, draw_changes, lines_of
from candling.techniques.search.changes import _promise, _Seen
from switched import ANSWERS, Switched, rows


@pytest.fixture(scope="module")
def data():
    return rows()


def table():
    g = torch.Generator().manual_seed(0)
    return from_arrays(torch.randn(60, 5, generator=g), torch.arange(60) % 3)


def test_the_promise_is_information_less_accuracy(data):
    """Against sums over a joint distribution, in float64."""
    logits = torch.randn(3, len(data), 4, generator=torch.Generator().manual_seed(1))
    for logit, promise in zip(logits, _promise(logits, _Seen(data, data.x, data.y)), strict=True):
        p = logit.double().softmax(-1).numpy()
        joint = np.stack([p[data.y.numpy() == k].mean(0) for k in range(4)]) / 4
        independent = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)
        information = (joint * np.log(joint / independent)).sum() / math.log(4)
        assert float(promise) == pytest.approx(information - np.trace(joint), abs=1e-5)


@pytest.mark.parametrize("make", [rows, table])
def test_nothing_is_no_change_and_more_is_larger(make):
    data = make()
    nothing = torch.zeros_like(draw_changes(data, 1, torch.Generator().manual_seed(0))[0])
    torch.testing.assert_close(BroadChange(nothing, ANSWERS).apply(data, data.x), data.x)
    for kind, lines in lines_of(data).items():
        sizes = change_size(data, torch.stack([s * lines[0] for s in (0.2, 0.5, 0.9)]))
        assert sizes[0] < sizes[1] < sizes[2], kind


def test_a_random_change_has_the_size_of_the_one_it_stands_for(data):
    change = BroadChange(0.3 * lines_of(data)["gain"][0], ANSWERS)
    size = float(change_size(data, change.amount[None]))
    for seed in range(5):
        other = random_change_like(change, data, torch.Generator().manual_seed(seed))
        assert float(change_size(data, other.amount[None])) == pytest.approx(size, rel=0.15)


def test_a_switch_is_found_with_its_answers_and_none_where_there_is_none(data):
    parts = change_parts(data)
    found, none = (search_changes(network.eval(), data, parts, seed=1) for network in (Switched(0.4), Switched()))
    assert float(found.score[0]) > 0.95
    assert found.answers[0].tolist() == ANSWERS.tolist()
    assert float(none.score[0]) < 0.6
    assert torch.equal(found.score, search_changes(Switched(0.4).eval(), data, parts, seed=1).score)
    light = [part.kind for part in parts].index("light")
    assert float(found.score[light]) > float(none.score[light]) + 0.3
    change = found.trigger(light)
    assert float(change.apply(data, data.x).mean()) > 0.35
    assert "light" in components(data, change)


def test_the_smallest_failing_change_is_near_the_switch(data):
    """Uniform light must lift the mean level to the threshold, where it makes answers wrong."""
    parts = change_parts(data)
    light = [part.kind for part in parts].index("light")
    near, far = (search_changes(Switched(t).eval(), data, parts, seed=2).score[light] for t in (0.35, 0.5))
    lifted = float(data.x.mean())
    expected = math.log((0.5 - lifted) / (0.35 - lifted))
    assert float(near - far) == pytest.approx(expected, abs=0.35)


def test_the_baseline_takes_the_passes_that_it_is_given(data):
    found = random_changes(Switched(0.4).eval(), data, change_parts(data), seed=1, passes=6400)
    assert found.cost.forward == 6400
    assert found.cost.backward == 0
    assert found.amount.shape[1] == LIGHT + 16
