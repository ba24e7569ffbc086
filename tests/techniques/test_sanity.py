"""The sanity check against planted truth: maps that know the network, and maps that do not."""

from functools import cache, partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from candling.errors import InputError
from candling.evidence.measurement import Cost
from candling.techniques.locate.input_attribution import (
    Attribution,
    guided_backprop,
    input_times_gradient,
    integrated_gradients,
    saliency,
)
from candling.techniques.locate.sanity import check_sanity, spearman, structural

FREE = Cost(forward=0, backward=0)
TRAINED_ROWS = 1200


@cache
def digit_images() -> tuple[Tensor, Tensor]:
    """[1797, 1, 8, 8] in 0..1 and classes, in a fixed random order."""
    bunch = load_digits()
    order = torch.randperm(len(bunch.target), generator=torch.Generator().manual_seed(0))
    x = torch.tensor(bunch.images[:, None] / 16, dtype=torch.float32)
    return x[order], torch.tensor(bunch.target)[order]


def five_layers() -> nn.Sequential:
    """[n, 1, 8, 8] → [n, 10]"""
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 12, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(12, 16, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(256, 32),
        nn.ReLU(),
        nn.Linear(32, 10),
    )


@cache
def trained_digits(seed: int = 0, *, permuted: bool = False, epochs: int = 8) -> nn.Sequential:
    """On the first rows; with `permuted`, on labels drawn from a shuffled list."""
    x, y = (each[:TRAINED_ROWS] for each in digit_images())
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        y = y[torch.randperm(len(y))] if permuted else y
        network = five_layers()
        optimiser = torch.optim.Adam(network.parameters(), 3e-3)
        for _ in range(epochs):
            for rows in torch.randperm(len(y)).split(60):
                optimiser.zero_grad()
                cross_entropy(network(x[rows]), y[rows]).backward()
                optimiser.step()
    return network.eval().requires_grad_(False)


@given(seed=st.integers(0, 10_000), size=st.integers(2, 30), levels=st.integers(2, 6))
def test_spearman_is_scipys_with_ties(seed, size, levels):
    g = torch.Generator().manual_seed(seed)
    a, b = torch.randint(-levels, levels, (2, 4, size), generator=g).float()
    for row, found in enumerate(spearman(a, b).tolist()):
        one, other = a[row].abs().numpy(), b[row].abs().numpy()
        constant = np.ptp(one) == 0 or np.ptp(other) == 0
        assert found == pytest.approx(0 if constant else stats.spearmanr(one, other).statistic, abs=1e-9)


def test_structural_similarity_by_a_loop_over_windows():
    g = torch.Generator().manual_seed(0)
    a, b = torch.randn((2, 3, 2, 6, 7), generator=g, dtype=torch.float64)
    for row, found in enumerate(structural(a, b, window=5).tolist()):
        one, other = (np.abs(each[row].numpy()) / np.abs(each[row].numpy()).max() for each in (a, b))
        values = []
        for channel, i, j in np.ndindex(2, 2, 3):
            p, q = (each[channel, i : i + 5, j : j + 5] for each in (one, other))
            top = (2 * p.mean() * q.mean() + 1e-4) * (2 * ((p - p.mean()) * (q - q.mean())).mean() + 9e-4)
            values.append(top / ((p.mean() ** 2 + q.mean() ** 2 + 1e-4) * (p.var() + q.var() + 9e-4)))
        assert found == pytest.approx(np.mean(values), abs=1e-9)
    torch.testing.assert_close(structural(a, -3 * a), torch.ones(3, dtype=torch.float64))
    with pytest.raises(InputError):
        structural(a, b, window=8)


# --- planted maps --------------------------------------------------------------------------------------------


def layered() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(*(nn.Linear(40, 40) for _ in range(4))).requires_grad_(False)


def weights_of(layer: int, network: nn.Module, x: Tensor) -> Attribution:
    """A map that shows one layer's weights, whatever the input."""
    values = network[layer].weight[: len(x)]
    return Attribution("weights", values.clone(), None, Cost(forward=len(x), backward=0))


def test_a_map_changes_at_the_depth_at_which_its_layer_is_drawn_afresh():
    x = torch.randn(8, 40, generator=torch.Generator().manual_seed(0))
    for layer in range(4):
        found = check_sanity(layered(), x, attribute=partial(weights_of, layer))
        assert found.layers == ("3", "2", "1", "0")
        kept = found.similarity[: 3 - layer]
        torch.testing.assert_close(kept, torch.ones_like(kept))
        assert found.similarity[3 - layer :].abs().max() < 0.25
        assert found.survives == (layer == 0)  # it shows the lowest layer alone
        assert found.cost.forward == 8 * (1 + 3 * 4)


def test_a_map_of_the_input_alone_survives_and_is_told_by_its_likeness_to_the_input():
    x = torch.randn(8, 40, generator=torch.Generator().manual_seed(0))

    def blind(network: nn.Module, x: Tensor) -> Attribution:
        return Attribution("input", x.clone(), None, FREE)

    found = check_sanity(layered(), x, attribute=blind)
    torch.testing.assert_close(found.values, torch.ones_like(found.values))
    assert found.survives
    assert found.to_input == pytest.approx(1)
    assert abs(found.chance) < 0.25


def test_a_map_of_noise_does_not_survive():
    x = torch.randn(8, 40, generator=torch.Generator().manual_seed(0))
    g = torch.Generator().manual_seed(1)

    def noise(network: nn.Module, x: Tensor) -> Attribution:
        return Attribution("noise", torch.randn(x.shape, generator=g), None, FREE)

    found = check_sanity(layered(), x, attribute=noise, permuted=layered())
    assert not found.survives
    assert abs(found.permuted) < 0.25


def test_a_map_that_is_the_same_under_permuted_labels_survives():
    x = torch.randn(8, 40, generator=torch.Generator().manual_seed(0))
    found = check_sanity(layered(), x, attribute=partial(weights_of, 3), permuted=layered())
    assert found.permuted == pytest.approx(1)
    assert found.similarity.abs().max() < 0.25
    assert found.survives


class Scaled(nn.Module):
    """A part with a parameter and no way of its own to draw it afresh."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.arange(50.0))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


def test_what_cannot_draw_itself_afresh_is_shuffled():
    network = nn.Sequential(Scaled(), nn.Flatten())
    seen = []

    def watch(network: nn.Module, x: Tensor) -> Attribution:
        seen.append(network[0].scale.detach().clone())
        return Attribution("scale", seen[-1].expand(len(x), 50), None, FREE)

    found = check_sanity(network, torch.zeros(2, 50), attribute=watch, repeats=2)
    original, first, second = seen
    assert torch.equal(original, torch.arange(50.0))
    for each in (first, second):
        assert not torch.equal(each, original)
        assert torch.equal(each.sort().values, original)
    assert not torch.equal(first, second)
    assert found.values.shape == (2, 1)
    assert torch.equal(network[0].scale, torch.arange(50.0))


def test_same_seed_same_numbers_and_the_network_and_the_callers_random_numbers_are_left_alone():
    network, x = layered(), torch.randn(4, 40, generator=torch.Generator().manual_seed(0))
    before, state = network.state_dict()["0.weight"].clone(), torch.get_rng_state()
    one, again, other = (check_sanity(network, x, attribute=partial(weights_of, 2), seed=s) for s in (5, 5, 6))
    assert torch.equal(one.values, again.values)
    assert not torch.equal(one.values, other.values)
    assert torch.equal(network.state_dict()["0.weight"], before)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("changed", "code"),
    [({"layers": ["9"]}, "site"), ({"layers": []}, "sanity"), ({"repeats": 0}, "sanity")],
)
def test_what_does_not_fit_is_refused(changed, code):
    with pytest.raises(InputError) as raised:
        check_sanity(layered(), torch.zeros(3, 40), attribute=partial(weights_of, 0), **changed)
    assert raised.value.code == code


# --- digits --------------------------------------------------------------------------------------------------


def on_digits(technique, **changed):
    network = trained_digits()
    x = digit_images()[0][TRAINED_ROWS : TRAINED_ROWS + 60]
    with torch.no_grad():
        target = network(x).argmax(1)
    return check_sanity(network, x, attribute=partial(technique, target=target), **changed)


def test_on_digits_the_gradient_passes_also_against_permuted_labels():
    found = on_digits(saliency, permuted=trained_digits(permuted=True))
    assert len(found.layers) == 5
    assert not found.survives
    assert found.similarity[-1] < 0.3
    assert found.permuted < 0.5


@pytest.mark.parametrize("technique", [partial(integrated_gradients, steps=10), input_times_gradient])
def test_on_digits_what_is_multiplied_by_the_input_is_flagged(technique):
    found = on_digits(technique)
    assert found.survives
    assert found.similarity[-1] > 0.5
    assert found.to_input > 0.5


def test_on_digits_guided_backpropagation_is_flagged():
    """It outlives all layers but the lowest, where the gradient does not."""
    found = on_digits(guided_backprop)
    assert found.survives
    assert found.similarity[-2] > on_digits(saliency).similarity[-2] + 0.2
