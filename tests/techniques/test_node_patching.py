"""Node patching against hand computation: each network's own arithmetic written out in float64."""

from collections.abc import Callable
from itertools import product
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from candling.errors import InputError
from candling.techniques.locate import node_patching
from candling.techniques.locate.contract import LogitDifference, Scores
from candling.techniques.locate.node_patching import attribute_nodes, mean, patch_nodes, resample, zero

N = 3
CLOSE = {"rtol": 0, "atol": 1e-6}


def seeded(build: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build().double().eval().requires_grad_(False)


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def margin(logits: Tensor) -> Tensor:
    return logits[:, 0] - logits[:, 1]


class Last(nn.Module):
    """[n, 4, 2] → [n, 3]: a GRU over four steps, read at the last."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(2, 3, batch_first=True)
        self.out = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        # A product over steps, so that every step matters, and not in a straight line.
        return self.out(self.gru(x)[0].tanh().prod(1) + self.gru.bias_ih_l0[:3])


# --- each network by hand: the site's value, and what follows it ---------------------------------------------


def mlp_parts() -> tuple[nn.Module, Callable, Callable]:
    network = seeded(lambda: nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)))
    w1, b1, w2, b2 = (p.numpy() for p in network.parameters())
    return network, lambda x: x @ w1.T + b1, lambda h: np.tanh(h) @ w2.T + b2


def cnn_parts() -> tuple[nn.Module, Callable, Callable]:
    network = seeded(lambda: nn.Sequential(nn.Conv2d(2, 3, 2), nn.Sigmoid(), nn.Flatten(), nn.Linear(18, 3)))
    kernel, bias, w, b = (p.numpy() for p in network.parameters())

    def site(x: np.ndarray) -> np.ndarray:
        out = np.zeros((len(x), 3, 3, 2))
        for row, channel, i, j in np.ndindex(out.shape):
            out[row, channel, i, j] = (kernel[channel] * x[row, :, i : i + 2, j : j + 2]).sum() + bias[channel]
        return out

    return network, site, lambda h: (1 / (1 + np.exp(-h))).reshape(len(h), -1) @ w.T + b


def gru_parts() -> tuple[nn.Module, Callable, Callable]:
    network = seeded(Last)
    w_in, w_state, b_in, b_state = (p.numpy() for p in network.gru.parameters())
    w, b = (p.numpy() for p in network.out.parameters())

    def squash(v: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-v))

    def site(x: np.ndarray) -> np.ndarray:
        state, out = np.zeros((len(x), 3)), []
        for step in range(x.shape[1]):
            from_input = np.split(x[:, step] @ w_in.T + b_in, 3, axis=1)
            from_state = np.split(state @ w_state.T + b_state, 3, axis=1)
            reset, keep = (squash(from_input[k] + from_state[k]) for k in (0, 1))
            state = (1 - keep) * np.tanh(from_input[2] + reset * from_state[2]) + keep * state
            out.append(state)
        return np.stack(out, axis=1)

    return network, site, lambda h: (np.tanh(h).prod(1) + b_in[:3]) @ w.T + b


CASES = {
    "mlp": (mlp_parts, "0", (N, 4), {"unit": 1}),
    "cnn, channels": (cnn_parts, "0", (N, 2, 4, 3), {"unit": 1}),
    "cnn, everything": (cnn_parts, "0", (N, 2, 4, 3), {"unit": 1, "row": 2, "column": 3}),
    "cnn, places": (cnn_parts, "0", (N, 2, 4, 3), {"column": -1, "row": 2}),
    "gru, units": (gru_parts, "gru", (N, 4, 2), {"unit": 2}),
    "gru, steps": (gru_parts, "gru", (N, 4, 2), {"position": 1}),
    "gru, both": (gru_parts, "gru", (N, 4, 2), {"position": 1, "unit": 2}),
}
REPLACED = {
    resample: lambda other: other,
    mean: lambda other: np.broadcast_to(other.mean(0), other.shape),
    zero: np.zeros_like,
}


def by_hand(
    own: np.ndarray, new: np.ndarray, after: Callable, axes: dict[str, int], step: float | None
) -> np.ndarray:
    """Part by part: the metric with the part replaced, less the metric without; or, with a step, its slope times
    the change, by central differences."""

    def metric(h: np.ndarray) -> float:
        logits = after(h)
        return float((logits[:, 0] - logits[:, 1]).mean())

    dims = [d % own.ndim for d in axes.values()]
    values = np.zeros([own.shape[d] for d in dims])
    for part in product(*(range(s) for s in values.shape)):
        at = tuple(part[dims.index(d)] if d in dims else slice(None) for d in range(own.ndim))
        direction = np.zeros_like(own)
        direction[at] = (new - own)[at]
        if step is None:
            values[part] = metric(own + direction) - metric(own)
        else:
            values[part] = (metric(own + step * direction) - metric(own - step * direction)) / (2 * step)
    return values


@pytest.mark.parametrize("denoising", [False, True])
@pytest.mark.parametrize("replacement", list(REPLACED))
@pytest.mark.parametrize("case", list(CASES))
def test_against_hand_computation(case, replacement, denoising):
    parts, site, shape, axes = CASES[case]
    network, value, after = parts()
    clean, corrupt = drawn(*shape, seed=1), drawn(*shape, seed=2)
    own, other = (value(x.numpy()) for x in ((corrupt, clean) if denoising else (clean, corrupt)))
    new = REPLACED[replacement](other)
    given = {"axes": axes, "replacement": replacement, "denoising": denoising}
    for technique, step in ((patch_nodes, None), (attribute_nodes, 1e-5)):
        scores = technique(network, clean, corrupt=corrupt, sites=[site], metric=margin, **given)
        expected = by_hand(own, new, after, axes, step)
        np.testing.assert_allclose(scores.values[0].numpy(), expected, **CLOSE)
        assert [axis.name for axis in scores.axes] == ["site", *axes]
        both = [margin(network(x)).mean().item() for x in (clean, corrupt)]
        np.testing.assert_allclose([scores.clean, scores.corrupt], both, **CLOSE)
    assert np.abs(by_hand(own, new, after, axes, None)).mean() > 1e-4  # far above the tolerance


# --- planted truth -------------------------------------------------------------------------------------------


def gate(threshold: float) -> nn.Module:
    """[n, 4] of 0 and 1 → [n, 2]: logit 0 is 1 where the first two of four units sum above the threshold."""
    network = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 2), nn.ReLU(), nn.Hardtanh(0, 1))
    network.requires_grad_(False).double()
    network[0].weight.copy_(torch.eye(4))
    network[1].weight.copy_(torch.tensor([[1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]]))
    network[1].bias.copy_(torch.tensor([-threshold, 0.0]))
    return network


@pytest.mark.parametrize("denoising", [False, True])
def test_noising_finds_both_parts_of_an_and_and_denoising_both_of_an_or(denoising):
    """The other way about, neither part alone does anything."""
    on, off = torch.ones(1, 4, dtype=torch.float64), torch.zeros(1, 4, dtype=torch.float64)
    for threshold, found in ((1.0, not denoising), (0.0, denoising)):  # AND, OR
        scores = patch_nodes(gate(threshold), on, corrupt=off, sites=["0"], metric=margin, denoising=denoising)
        torch.testing.assert_close(scores.share[0], torch.tensor([found, found, 0, 0], dtype=torch.float64))


def test_attribution_is_blind_where_the_metric_is_flat():
    """The known failure: patched one at a time, the units of a gate that is far off do everything and nothing."""
    on, off = torch.ones(1, 4, dtype=torch.float64), torch.zeros(1, 4, dtype=torch.float64)
    args = {"corrupt": off, "sites": ["0", "3"], "metric": margin, "denoising": True}
    exact, estimate = (technique(gate(0.5), on, **args) for technique in (patch_nodes, attribute_nodes))
    assert exact.values[0, :2].tolist() == [0.5, 0.5]
    assert estimate.values[0, :2].tolist() == [0.0, 0.0]
    assert exact.values[1, 0] == estimate.values[1, 0] == 1  # behind the kink there is nothing to miss


@given(seed=st.integers(0, 10_000), rows=st.integers(1, 4), width=st.integers(1, 5), batch=st.integers(1, 9))
def test_on_a_linear_network_the_parts_sum_to_the_whole_and_both_techniques_agree(seed, rows, width, batch):
    network = seeded(lambda: nn.Sequential(nn.Linear(3, width), nn.Linear(width, 2)), seed)
    clean, corrupt = drawn(rows, 3, seed=seed), drawn(rows, 3, seed=seed + 1)
    args = {"corrupt": corrupt, "sites": ["0", "1"], "metric": margin}
    with patch.object(node_patching, "_ROWS", batch):
        exact = patch_nodes(network, clean, **args)
    estimate = attribute_nodes(network, clean, **args)
    torch.testing.assert_close(exact.values, estimate.values, equal_nan=True, **CLOSE)
    total = torch.full((2,), exact.corrupt - exact.clean, dtype=torch.float64)
    torch.testing.assert_close(exact.values.nansum(1), total, **CLOSE)


@pytest.mark.parametrize("technique", [patch_nodes, attribute_nodes])
def test_nothing_that_does_not_change_has_an_effect(technique):
    network, x = cnn_parts()[0], drawn(N, 2, 4, 3, seed=1)
    assert (technique(network, x, corrupt=x, sites=["0", "1"], metric=margin).values == 0).all()


@pytest.mark.parametrize("technique", [patch_nodes, attribute_nodes])
def test_the_network_comes_out_as_it_went_in(technique):
    network = mlp_parts()[0].train().requires_grad_(True)
    before = {name: t.clone() for name, t in network.state_dict().items()}
    technique(network, drawn(N, 4, seed=1), corrupt=drawn(N, 4, seed=2), sites=["0"], metric=margin)
    assert all(torch.equal(t, before[name]) for name, t in network.state_dict().items())
    assert all(p.grad is None for p in network.parameters())
    assert all(part.training and not part._forward_hooks for part in network.modules())


# --- shapes, costs, tokens, refusals -------------------------------------------------------------------------


def scored(technique: Callable, **changed: object) -> Scores:
    given = {"corrupt": drawn(N, 2, 4, 3, seed=2), "sites": ["0", "3"], "metric": margin, **changed}
    return technique(cnn_parts()[0], drawn(N, 2, 4, 3, seed=1), **given)


@pytest.mark.parametrize("technique", [patch_nodes, attribute_nodes])
def test_sites_of_unlike_width_leave_gaps(technique):
    scores = scored(technique, sites=["0", "2"])
    assert scores.axes[0].labels == ("0", "2")
    assert scores.values.shape == (2, 18)
    assert scores.there.sum(1).tolist() == [3, 18]
    assert scores.there[0, :3].all()


def test_costs_are_counted_in_passes_of_one_input():
    """As a network that counts its own rows says."""
    rows = []

    class Counted(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            rows.append(len(x))
            return super().forward(x)

    network = Counted(nn.Linear(4, 5), nn.Linear(5, 2)).double()
    pair = {"corrupt": drawn(N, 4, seed=2), "sites": ["0", "1"], "metric": margin}
    for technique in (patch_nodes, attribute_nodes):
        rows.clear()
        with patch.object(node_patching, "_ROWS", 7):
            scores = technique(network, drawn(N, 4, seed=1), **pair)
        assert scores.cost.forward == sum(rows)
        assert scores.cost.backward == (0 if technique is patch_nodes else N)


@pytest.mark.parametrize("technique", [patch_nodes, attribute_nodes])
def test_tokens_are_inputs_too(technique):
    """Inputs without gradient, and frozen weights."""
    network = seeded(lambda: nn.Sequential(nn.Embedding(7, 4), nn.Flatten(), nn.Linear(12, 3)))
    clean, corrupt = torch.tensor([[1, 2, 3], [4, 5, 6]]), torch.tensor([[1, 2, 0], [4, 0, 6]])
    metric = LogitDifference(torch.tensor([0, 1]), torch.tensor([1, 2]))
    scores = technique(network, clean, corrupt=corrupt, sites=["0"], metric=metric, axes={"position": 1})
    change = metric(network(corrupt)) - metric(network(clean))
    expected = torch.stack([torch.zeros(()), change[1] / 2, change[0] / 2])
    torch.testing.assert_close(scores.values[0], expected.double(), **CLOSE)


@pytest.mark.parametrize("technique", [patch_nodes, attribute_nodes])
@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({"sites": ["9"]}, "site"),
        ({"sites": []}, "site"),
        ({"axes": {"unit": 0}}, "axes"),
        ({"axes": {"unit": 4}}, "axes"),
        ({"axes": {"unit": 1, "again": -1}, "sites": ["3"]}, "axes"),
        ({"corrupt": drawn(2, 2, 4, 3, seed=0)}, "pairs"),
    ],
)
def test_what_does_not_fit_is_refused(technique, changed, code):
    with pytest.raises(InputError) as raised:
        scored(technique, **changed)
    assert raised.value.code == code


def test_a_site_whose_rows_are_not_the_inputs_is_refused():
    class Turned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gru = nn.GRU(2, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.gru(x.transpose(0, 1))[0][-1]

    x = torch.zeros(N, 4, 2)
    with pytest.raises(InputError, match="its rows are not the 3 inputs"):
        patch_nodes(Turned(), x, corrupt=x, sites=["gru"], metric=margin)
