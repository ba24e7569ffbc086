"""Observing and intervening: exact, and without a trace, whatever raises."""

import copy
from collections import namedtuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nets import NETWORKS, Recurrent, Shared, check_line, cnn, mlp, runs_once, unchanged
from torch import nn

from candling.access import intervene, observe, sites
from candling.access.sites import check
from candling.errors import InputError

X = torch.randn(6, 5, generator=torch.Generator().manual_seed(1))


def network(name: str, training: bool = False) -> nn.Module:
    torch.manual_seed(0)
    return NETWORKS[name]().train(training)


def bare(module: nn.Module, x: torch.Tensor = X) -> torch.Tensor:
    with torch.no_grad():
        return copy.deepcopy(module).eval()(x)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("training", [False, True])
def test_observing_is_exact_and_leaves_no_trace(name: str, training: bool) -> None:
    module = network(name, training)
    names = runs_once(name, module)
    with unchanged(module):
        seen = observe(module, X, names)
    assert torch.equal(seen.logits, bare(module))
    assert list(seen.activations) == names
    assert not seen.logits.requires_grad


@pytest.mark.parametrize("name", NETWORKS)
def test_an_edit_that_changes_nothing_changes_nothing(name: str) -> None:
    module = network(name, training=True)
    with unchanged(module):
        logits = intervene(module, X, dict.fromkeys(runs_once(name, module), lambda t: t))
    assert torch.equal(logits, bare(module))


@pytest.mark.parametrize("build", [cnn, mlp])
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_passes_agree_with_a_sequential_network_taken_apart(build, data) -> None:
    module = build().eval()
    place = data.draw(st.integers(0, len(module) - 1))
    factor = data.draw(st.sampled_from([0.0, -1.0, 2.0]))
    with torch.no_grad():
        inner = module[: place + 1](X).clone()  # cloned before the next layer overwrites it
        changed = module[place + 1 :](inner * factor)
    assert torch.equal(observe(module, X, [str(place)]).activations[str(place)], inner)
    assert torch.equal(intervene(module, X, {str(place): lambda t: t * factor}), changed)


def test_a_tuple_output_counts_by_its_first_tensor() -> None:
    module = network("recurrent")
    states, last = module.gru(X[..., None])
    assert torch.equal(observe(module, X, ["gru"]).activations["gru"], states)
    seen = []
    module.gru.register_forward_hook(lambda part, args, output: seen.append(output))
    with torch.no_grad():
        assert torch.equal(intervene(module, X, {"gru": torch.zeros_like}), module.out.bias.expand(6, 3))
    assert isinstance(seen[0], tuple)
    assert torch.equal(seen[0][1], last)


def test_named_and_leading_empty_tuples_keep_their_form() -> None:
    pair = namedtuple("pair", "note value")

    class Noted(nn.Module):
        def forward(self, x):
            return pair(None, x)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.noted = Noted()

        def forward(self, x):
            return self.noted(x).value

    assert torch.equal(intervene(Net(), X, {"noted": lambda t: t + 1}), X + 1)
    assert torch.equal(observe(Net(), X, ["noted"]).activations["noted"], X)


class Faulty(nn.Sequential):
    """Fails in its last layer, after every site has run."""

    def forward(self, x):
        super().forward(x)
        raise RuntimeError("network")


def fail(_: torch.Tensor) -> torch.Tensor:
    raise RuntimeError("edit")


FAULTS = {
    "the network raises": (lambda: Faulty(*mlp()), "0", lambda t: t, RuntimeError),
    "the edit raises": (mlp, "1", fail, RuntimeError),
    "the edit changes the shape": (mlp, "1", lambda t: t[:, :1], InputError),
    "the edit changes the dtype": (mlp, "1", lambda t: t.double(), InputError),
    "the edit returns nothing": (mlp, "1", lambda t: None, InputError),
    "the site is unknown": (mlp, "nowhere", lambda t: t, InputError),
    "the site runs twice": (Shared, "twice", lambda t: t, InputError),
    "the site never runs": (Shared, "never", lambda t: t, InputError),
    "the inputs do not fit": (cnn, "1", lambda t: t, RuntimeError),
}


@settings(max_examples=60, deadline=None)
@given(fault=st.sampled_from(sorted(FAULTS)), training=st.booleans(), looks=st.booleans(), grad=st.booleans())
def test_whatever_raises_the_network_is_as_before(fault, training, looks, grad) -> None:
    build, site, edit, error = FAULTS[fault]
    module = build().train(training)
    module[0].train(not training) if isinstance(module, nn.Sequential) else None
    for parameter in module.parameters():
        parameter.grad = torch.ones_like(parameter)
    module.register_forward_hook(lambda part, args, output: None)
    x = torch.randn(2, 7) if fault == "the inputs do not fit" else X
    only_edits = fault.startswith("the edit")
    act, what = (observe, [site]) if looks and not only_edits else (intervene, {site: edit})
    with unchanged(module), pytest.raises(error) as raised:
        act(module, x, what, grad=grad)
    if error is InputError:
        assert site in check_line(raised.value)


def test_a_network_that_swallows_errors_does_not_hide_a_second_run() -> None:
    class Stubborn(Shared):
        def forward(self, x):
            try:
                return super().forward(x)
            except Exception:
                return self.once(x)

    with pytest.raises(InputError, match="twice runs more than once"):
        observe(Stubborn(), X, ["twice"])


def test_an_edit_in_place_works_on_a_copy() -> None:
    class Table(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rows = nn.Parameter(torch.ones(6, 5))

        def forward(self, x):
            return self.rows

    module = nn.Sequential(nn.Identity(), Table())
    x = X.clone()
    with unchanged(module):
        assert torch.equal(intervene(module, x, {"1": lambda t: t.zero_(), "0": lambda t: t.zero_()}), 0 * X)
    assert torch.equal(x, X)


def test_a_tensor_patched_in_is_not_overwritten_by_the_next_layer() -> None:
    module = cnn().eval()
    patch = observe(module, X, ["2"]).activations["2"]
    before, seen = patch.clone(), []
    intervene(module, -X, {"2": lambda t: seen.append(t) or patch})
    intervene(module, X, {"2": lambda t: seen.append(t) or t})
    assert torch.equal(patch, before)
    assert torch.equal(seen[1], before)
    assert torch.equal(intervene(module, -X, {"2": lambda t: patch}), bare(module))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.enable_grad, torch.inference_mode])
def test_overwritten_outputs_are_seen_as_they_were(mode) -> None:
    module = cnn().eval()
    with torch.no_grad():
        before = module[:2](X)
    with mode():
        seen = observe(module, X.clone(), ["0", "1", "2", "3"]).activations
    assert torch.equal(seen["1"], before)
    assert bool((seen["2"] < 0).any())
    assert bool((seen["3"] >= 0).all())


def test_gradients_on_request_only() -> None:
    module = mlp().eval()
    with torch.no_grad():
        seen = observe(module, X, ["1"], grad=True)
    (got,) = torch.autograd.grad(seen.logits.sum(), seen.activations["1"])
    inner = module[:2](X).detach().requires_grad_()
    (want,) = torch.autograd.grad(module[2:](inner).sum(), inner)
    assert torch.equal(got, want)
    direction = torch.zeros(8, requires_grad=True)
    intervene(module, X, {"1": lambda t: t + direction}, grad=True).sum().backward()
    assert torch.allclose(direction.grad, want.sum(0))
    assert not intervene(module, X, {"1": lambda t: t + direction}).requires_grad


def test_sites_are_paths_in_definition_order() -> None:
    assert sites(Recurrent()) == ["gru", "out"]
    assert sites(Shared()) == ["twice", "once", "never"]
    nested = nn.Sequential(mlp(), mlp())
    assert sites(nested) == ["0", "0.0", "0.1", "0.2", "0.3", "1", "1.0", "1.1", "1.2", "1.3"]
    assert sites(nn.Identity()) == []
    check(Shared(), ["once", "alias"])


@pytest.mark.parametrize(
    ("name", "hint"),
    [("onse", "once"), ("", "twice, once, never"), ("once.weight", "once"), ("once\x1b[2J\u202e", r"\x1b")],
)
def test_an_unknown_site_names_the_nearest(name: str, hint: str) -> None:
    with pytest.raises(InputError) as raised:
        check(Shared(), [name])
    assert hint in check_line(raised.value)
    with pytest.raises(InputError):
        check(nn.Identity(), ["x" * 10_000])
