"""A network of one real output learns values of any unit, and comes out as plain weights of its own architecture."""

import pytest
import torch
from torch import Tensor, nn

from candling.access import Dataset, banded, forward, from_arrays, load
from candling.organisms.rescaling import last_layer, rescaled
from candling.organisms.training import Recipe, train
from candling.runs.seeds import reproducible

ADAM = Recipe(optimiser="adam", rate=4e-3, decay=0.0, batch=60, subset=1.0, augmentation=0.0, leniency=1.0)


def rows(scale: float = 1.0, offset: float = 0.0, n: int = 400) -> Dataset:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(n, 3, generator=g)
    return from_arrays(x, offset + scale * (x[:, 0] + 0.5 * x[:, 1].relu()))


class Scaled(nn.Module):
    """Its user brings values to their unit in the forward pass. [n, 3] → [n]"""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 16), nn.Linear(16, 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = 250 - 30 * self.last(self.first(x).relu())[:, 0]
        return y


class Positive(nn.Module):
    """No layer's output is the network's. [n, 3] → [n, 1]"""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 16), nn.Linear(16, 1)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.softplus(self.last(self.first(x).relu()))


def plain() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 16), nn.ReLU(), nn.Linear(16, 1))


def seen(build: object, data: Dataset) -> nn.Module:
    return banded(load(build(), build=build), data.task.bands).architecture()  # type: ignore[operator,arg-type]


@pytest.mark.parametrize(("scale", "offset"), [(1.0, 0.0), (300.0, 4000.0), (1e-4, -2e-3)])
@pytest.mark.parametrize("build", [plain, Scaled])
def test_values_of_any_unit_are_learned_alike(build, scale, offset):
    data = rows(scale, offset)
    with reproducible(1) as g:
        network = seen(build, data)
        with rescaled(network, data, fresh=True):
            train(network, data, ADAM, g, reach=0.01, evaluation=data)
    names = build().state_dict().keys()
    assert network.state_dict().keys() == names
    assert all(not hasattr(part, "parametrizations") for part in network.modules())
    assert data.measure(forward(network, data.x)) > 0.97


def test_what_is_trained_already_is_left_as_it_is():
    data = rows(300.0, 4000.0)
    network = seen(plain, data)
    before = forward(network, data.x)
    with rescaled(network, data, fresh=False):
        assert torch.allclose(forward(network, data.x), before, rtol=1e-4, atol=1e-3)
    assert torch.allclose(forward(network, data.x), before, rtol=1e-4, atol=1e-3)


def test_the_last_layer_is_told_by_what_it_does():
    data = rows(30.0, 250.0)
    bands = data.task.bands
    scaled = last_layer(seen(Scaled, data), data.x[:4], bands)
    assert scaled is not None
    assert scaled.scale == pytest.approx(-bands.spread / 30, rel=1e-4)
    assert scaled.offset == pytest.approx(-(bands.mean - 250) / 30, abs=1e-4)
    assert last_layer(seen(Positive, data), data.x[:4], bands) is None


def test_networks_without_one_and_classifiers_are_passed_over():
    for network, data in ((seen(Positive, rows()), rows()), (plain(), from_arrays(torch.eye(4), [0, 1, 0, 1]))):
        before = {name: value.clone() for name, value in network.state_dict().items()}
        with rescaled(network, data, fresh=True):
            assert network.state_dict().keys() == before.keys()
        assert all(torch.equal(network.state_dict()[name], value) for name, value in before.items())
