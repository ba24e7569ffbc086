"""Input attribution against slow derivations: finite differences, loops over windows, written-out weights."""

import sys
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_sanity import TRAINED_ROWS, digit_images, trained_digits
from torch import Tensor, nn

from candling.errors import InputError
from candling.techniques.locate.input_attribution import (
    at_embedding,
    grad_cam,
    guided_backprop,
    input_times_gradient,
    integrated_gradients,
    occlusion,
    saliency,
)

CLOSE = {"rtol": 1e-5, "atol": 1e-7}
N = 3


class Steps(nn.Module):
    """[n, 4, 2] → ([n, 3], state): a GRU; the network itself gives a tuple."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(2, 5, batch_first=True)
        self.out = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        states, last = self.gru(x)
        return self.out(states[:, -1]), last


def convolutional() -> nn.Module:
    return nn.Sequential(nn.Conv2d(2, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(18, 3), nn.Tanh(), nn.Linear(3, 3))


def perceptron() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 6), nn.ReLU(inplace=True), nn.Linear(6, 3))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "cnn": (convolutional, (2, 4, 3)),
    "gru": (Steps, (4, 2)),
    "mlp": (perceptron, (5,)),
}


def case(name: str, seed: int = 0) -> tuple[nn.Module, Tensor, Tensor]:
    build, shape = NETWORKS[name]
    g = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = build().double().eval().requires_grad_(False)
    return network, torch.randn((N, *shape), generator=g, dtype=torch.float64), torch.tensor([2, 0, 1])


def chosen(network: nn.Module, x: Tensor, target: Tensor) -> Tensor:
    with torch.no_grad():
        output = network(x)
    output = output[0] if isinstance(output, tuple) else output
    return output[torch.arange(len(x)), target]


def slope(network: nn.Module, x: Tensor, target: Tensor, step: float = 1e-6) -> Tensor:
    """Central differences, element by element."""
    found = torch.zeros_like(x)
    for place in np.ndindex(x.shape[1:]):
        shift = torch.zeros_like(x)
        shift[(slice(None), *place)] = step
        found[(slice(None), *place)] = (chosen(network, x + shift, target) - chosen(network, x - shift, target)) / (
            2 * step
        )
    return found


@pytest.mark.parametrize("name", list(NETWORKS))
def test_saliency_and_input_times_gradient_by_finite_differences(name):
    network, x, target = case(name)
    expected = slope(network, x, target)
    torch.testing.assert_close(saliency(network, x, target).values, expected, **CLOSE)
    torch.testing.assert_close(input_times_gradient(network, x, target).values, x * expected, **CLOSE)


@pytest.mark.parametrize("name", list(NETWORKS))
@pytest.mark.parametrize("with_baseline", [False, True])
def test_integrated_gradients_by_a_loop_over_the_path(name, with_baseline):
    network, x, target = case(name)
    baseline = x[:1].flip(-1) * 0.5 if with_baseline else None
    start = torch.zeros_like(x) if baseline is None else baseline.expand_as(x)
    places, weights = np.polynomial.legendre.leggauss(8)
    expected = torch.zeros_like(x)
    for place, weight in zip(places, weights, strict=True):
        at = start + (place + 1) / 2 * (x - start)
        expected += weight / 2 * slope(network, at, target) * (x - start)
    found = integrated_gradients(network, x, target, baseline=baseline, steps=8)
    torch.testing.assert_close(found.values, expected, rtol=1e-4, atol=1e-6)
    gap = expected.flatten(1).sum(1) - (chosen(network, x, target) - chosen(network, start, target))
    way = chosen(network, x, target) - chosen(network, start, target)
    assert found.completeness == pytest.approx(float(gap.abs().sum() / way.abs().sum()), abs=1e-5)


@pytest.mark.parametrize("stride", [None, (1, 2, 1), (2, 2, 2)])
def test_occlusion_by_a_loop_over_windows(stride):
    network, x, target = case("cnn")
    window, by = (2, 2, 2), stride or (1, 1, 1)
    baseline = torch.full((1, 2, 4, 3), 0.3, dtype=torch.float64)
    total, times = torch.zeros_like(x), torch.zeros_like(x)
    starts = [range(0, 1 + -(-(size - w) // s) * s, s) for size, w, s in zip(x.shape[1:], window, by, strict=True)]
    count = 0
    for a in starts[0]:
        for b in starts[1]:
            for c in starts[2]:
                at = (slice(None), slice(a, a + 2), slice(b, b + 2), slice(c, c + 2))
                hidden = x.clone()
                hidden[at] = baseline.expand_as(x)[at]
                fall = chosen(network, x, target) - chosen(network, hidden, target)
                total[at] += fall.view(-1, 1, 1, 1)
                times[at] += 1
                count += 1
    found = occlusion(network, x, target, window=window, stride=stride, baseline=baseline)
    torch.testing.assert_close(found.values, total / times, rtol=1e-5, atol=1e-6)
    assert found.cost.forward == N * (count + 1)


def test_grad_cam_by_the_paper():
    """Weights: the mean slope over places; the map: the weighed sum of channels."""
    network, x, target = case("cnn")
    site = network[1](network[0](x))
    tail = network[2:]
    weights = slope(tail, site, target).flatten(2).mean(2)
    coarse = (weights[:, :, None, None] * site).sum(1, keepdim=True)
    expected = nn.functional.interpolate(coarse, (4, 3), mode="bilinear", align_corners=False).expand_as(x)
    torch.testing.assert_close(grad_cam(network, x, target, site="1").values, expected, **CLOSE)


def test_guided_backpropagation_by_written_out_weights():
    network, x, target = case("mlp")
    first, last = network[0].weight, network[2].weight
    on = x @ first.T + network[0].bias > 0
    expected = (on * last[target].clamp(min=0)) @ first
    torch.testing.assert_close(guided_backprop(network, x, target).values, expected, **CLOSE)
    assert not torch.allclose(expected, saliency(network, x, target).values)


@given(seed=st.integers(0, 10_000), width=st.integers(1, 6))
def test_on_a_linear_network_every_technique_gives_its_weights(seed, width):
    g = torch.Generator().manual_seed(seed)
    network = nn.Linear(width, 4).double().requires_grad_(False)
    network.weight.copy_(torch.randn((4, width), generator=g, dtype=torch.float64))
    x, baseline = (torch.randn((N, width), generator=g, dtype=torch.float64) for _ in range(2))
    target = torch.randint(4, (N,), generator=g)
    weights = network.weight[target]
    torch.testing.assert_close(saliency(network, x, target).values, weights)
    torch.testing.assert_close(input_times_gradient(network, x, target).values, weights * x)
    integrated = integrated_gradients(network, x, target, baseline=baseline, steps=3)
    torch.testing.assert_close(integrated.values, weights * (x - baseline), **CLOSE)
    hidden = occlusion(network, x, target, window=(1,), baseline=baseline)
    torch.testing.assert_close(hidden.values, weights * (x - baseline), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("rows", [1, 2, 40])
def test_tokens_by_their_embeddings(rows):
    """A mean of embeddings is linear: each token's share is its own. Forty rows and fifty steps take two passes."""

    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(7, 4)
            self.out = nn.Linear(4, 3, bias=False)

        def forward(self, ids: Tensor) -> Tensor:
            return self.out(self.embed(ids).mean(1))

    network = Words().double().requires_grad_(False)
    tokens = torch.randint(7, (rows, 5), generator=torch.Generator().manual_seed(1))
    target = torch.arange(rows) % 3
    module, embeddings = at_embedding(network, tokens, "embed")
    torch.testing.assert_close(module(embeddings), network(tokens))
    found = integrated_gradients(module, embeddings, target)
    expected = network.embed(tokens) * network.out.weight[target][:, None] / 5
    torch.testing.assert_close(found.values, expected, **CLOSE)
    assert found.completeness < 1e-5


def test_fifty_steps_are_complete_to_one_per_cent_on_trained_digits():
    """Against the network's own outputs."""
    network = trained_digits()
    x = digit_images()[0][TRAINED_ROWS : TRAINED_ROWS + 100]
    with torch.no_grad():
        logits = network(x)
        ends = network(torch.zeros(1, 1, 8, 8))
    target = logits.argmax(1)
    found = integrated_gradients(network, x, target)
    way = logits.gather(1, target[:, None])[:, 0] - ends[0, target]
    error = (found.values.flatten(1).sum(1) - way).abs().sum() / way.abs().sum()
    assert found.completeness == pytest.approx(float(error), abs=1e-5)
    assert found.completeness < 0.01
    assert integrated_gradients(network, x, target, steps=2).completeness > found.completeness


TECHNIQUES = {
    "saliency": saliency,
    "integrated gradients": partial(integrated_gradients, steps=6),
    "input × gradient": input_times_gradient,
    "guided backpropagation": guided_backprop,
    "Grad-CAM": partial(grad_cam, site="0"),
    "occlusion": partial(occlusion, window=(2, 2, 2)),
}


@pytest.mark.parametrize("name", list(TECHNIQUES))
def test_network_and_inputs_come_out_as_they_went_in_and_passes_are_counted(name):
    rows: list[int] = []

    class Counted(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            rows.append(len(x))
            return super().forward(x)

    _, x, target = case("cnn")
    network = Counted(*convolutional()).double().train()
    before, kept = {name: t.clone() for name, t in network.state_dict().items()}, x.clone()
    found = TECHNIQUES[name](network, x, target)
    assert found.technique == name
    assert found.values.shape == x.shape
    assert not found.values.requires_grad
    assert found.cost.forward == sum(rows)
    assert all(torch.equal(t, before[name]) for name, t in network.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in network.parameters())
    hooks = [(p._forward_hooks, p._forward_pre_hooks, p._backward_hooks) for p in network.modules()]
    assert not any(any(each) for each in hooks)
    assert all(part.training for part in network.modules())
    assert torch.equal(x, kept)
    assert not x.requires_grad
    assert (found.completeness is None) == (name != "integrated gradients")


def test_a_network_of_one_number_needs_no_target():
    network = nn.Sequential(nn.Linear(3, 1), nn.Flatten(0))
    x = torch.randn(N, 3)
    torch.testing.assert_close(saliency(network, x).values, network[0].weight.detach().expand(N, 3))


@pytest.mark.parametrize(
    ("technique", "changed", "code"),
    [
        (saliency, {"x": torch.zeros(N, 2, 4, 3, dtype=torch.long)}, "inputs"),
        (saliency, {"x": torch.zeros(0, 2, 4, 3)}, "inputs"),
        (saliency, {"target": None}, "target"),
        (saliency, {"target": torch.tensor([0, 1])}, "target"),
        (integrated_gradients, {"target": torch.tensor([0, 1, 3])}, "target"),
        (integrated_gradients, {"baseline": torch.zeros(2, 2, 4, 3)}, "baseline"),
        (occlusion, {"window": (2, 2)}, "window"),
        (occlusion, {"window": (2, 5, 2)}, "window"),
        (occlusion, {"window": (2, 2, 2), "stride": (3, 1, 1)}, "window"),
        (grad_cam, {"site": "9"}, "site"),
        (grad_cam, {"site": "3"}, "site"),
        (guided_backprop, {"network": nn.Sequential(nn.Flatten(), nn.Linear(24, 3))}, "network"),
    ],
)
def test_what_does_not_fit_is_refused(technique, changed, code):
    network, x, target = case("cnn")
    given = {"network": network, "x": x, "target": target, **changed}
    with pytest.raises(InputError) as raised:
        technique(**given)
    assert raised.value.code == code


def test_without_captum_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "captum", None)
    with pytest.raises(InputError, match=r"candling\[attribution\]"):
        saliency(*case("mlp"))
