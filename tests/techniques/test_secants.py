"""Attribution by secants: against chords drawn slowly by hand, where it must be exact, and on known circuits."""

from functools import cache

import pytest
import torch
from drawn_decoders import difference
from hypothesis import given, settings
from hypothesis import strategies as st
from leaves import KINDS, Slow, exact, some_pairs
from torch import Tensor
from torch.nn.functional import linear

from candling.access.anatomy import MLP, Anatomy, Attention
from candling.access.gradients import softmax_secant
from candling.access.graph import graph_of
from candling.access.pairs import Pairs
from candling.organisms.networks.gates import KnownCircuit, and_gate
from candling.organisms.networks.induction import induction
from candling.organisms.networks.programs import fraction, reverse
from candling.techniques.locate.attribution_patching import attribution_patching
from candling.techniques.locate.check import IMPORTANT, MISSED, pearson
from candling.techniques.locate.contract import Metric
from candling.techniques.locate.edge_attribution import edge_attribution, edge_attribution_ig
from candling.techniques.locate.path_patching import patch_paths

CORRUPTIONS: dict[str, dict[str, object]] = {
    "the first A": {"changed": ("first",), "broken": True},
    "A and B": {"changed": ("first", "answer"), "broken": True},
    "no induction possible": {"broken": True},
    "induction to another token": {},
}


class Seen(Slow):
    """A plain run that remembers what its softmaxes and activations were given."""

    def __init__(self, anatomy: Anatomy, tokens: Tensor) -> None:
        self.given: dict[object, Tensor] = {}
        super().__init__(anatomy, tokens)

    def risen(self, layer: int, mlp: MLP, x: Tensor) -> Tensor:
        self.given[layer] = linear(x, mlp.up if mlp.gate is None else mlp.gate, first_bias(mlp)).detach()
        return mlp.neurons(x)


def first_bias(mlp: MLP) -> Tensor | None:
    return mlp.up_bias if mlp.gate is None else mlp.gate_bias


class Chords(Slow):
    """The clean run with a straight line in the place of every softmax and activation: from clean to corrupt."""

    def __init__(self, anatomy: Anatomy, pairs: Pairs) -> None:
        self.clean, self.corrupt = Seen(anatomy, pairs.clean), Seen(anatomy, pairs.corrupt)
        super().__init__(anatomy, pairs.clean)

    def looked(self, lone: Attention, query: Tensor, key: Tensor, place: tuple[int, int]) -> Tensor:
        layer, head = place
        group = head // self.ratio(layer)
        names = f"{layer}.attn.q.{head}", f"{layer}.attn.k.{group}"
        (q, k), (other_q, other_k) = ([run.values[name] for name in names] for run in (self.clean, self.corrupt))

        def logs(query: Tensor, key: Tensor) -> Tensor:
            return lone.scores(query[:, None], key[:, None])[:, 0].log_softmax(-1)

        own = logs(q, k)
        hidden = own.isinf()

        def scores(query: Tensor, key: Tensor) -> Tensor:
            return lone.scores(query[:, None], key[:, None])[:, 0].masked_fill(hidden, 0.0)

        pattern = own.exp()
        for moved, other in ((scores(query, k), logs(other_q, k)), (scores(q, key), logs(q, other_k))):
            mean = ((other.exp() - own.exp()) / (other - own)).masked_fill(hidden, 0.0)
            mean = torch.where((other - own).abs() < 1e-9, own.exp(), mean)
            chord = torch.diag_embed(mean) - mean[..., None] * mean[..., None, :] / mean.sum(-1)[..., None, None]
            pattern = pattern + (chord @ (moved - moved.detach())[..., None])[..., 0]
        return pattern

    def ratio(self, layer: int) -> int:
        count = len([name for name in self.clean.values if name.startswith(f"{layer}.attn.q.")])
        return count // len([name for name in self.clean.values if name.startswith(f"{layer}.attn.k.")])

    def risen(self, layer: int, mlp: MLP, x: Tensor) -> Tensor:
        z, other = self.clean.given[layer], self.corrupt.given[layer]
        slope = (mlp.activation(other) - mlp.activation(z)) / (other - z)
        leaf = z.clone().requires_grad_()
        (here,) = torch.autograd.grad(mlp.activation(leaf).sum(), leaf)
        slope = torch.where((other - z).abs() < 1e-9, here, slope)
        now = linear(x, mlp.up if mlp.gate is None else mlp.gate, first_bias(mlp))
        active = mlp.activation(z) + slope * (now - z)
        return active if mlp.gate is None else active * linear(x, mlp.up, mlp.up_bias)


@pytest.mark.parametrize("kind", KINDS)
def test_every_edge_and_node_is_as_chords_give_it(kind: str) -> None:
    anatomy, pairs = exact(kind), some_pairs()
    metric, graph = difference(pairs), graph_of(anatomy)
    slow = Chords(anatomy, pairs)
    gradients = slow.gradients(pairs, metric)
    found = edge_attribution(anatomy, pairs, metric=metric, secants=True).values
    plain = edge_attribution(anatomy, pairs, metric=metric).values
    assert (found - plain).nan_to_num().abs().max() > 1e-2
    for s, r in torch.nonzero(graph.edges).tolist():
        sender = str(graph.senders[s])
        change = slow.corrupt.written[sender] - slow.clean.written[sender]
        expected = (change * gradients[str(graph.receivers[r])]).sum() / len(pairs)
        torch.testing.assert_close(found[s, r], expected.detach(), atol=1e-8, rtol=1e-6)
    nodes = attribution_patching(anatomy, pairs, metric=metric, nodes=("resid_pre", "attn.q", "attn.v"), secants=True)
    for name, kept in (("1.attn.q.0", nodes["attn.q"].values[1, 0]), ("0.attn.v.0", nodes["attn.v"].values[0, 0])):
        change = slow.corrupt.values[name] - slow.clean.values[name]
        torch.testing.assert_close(kept, (change * gradients[name]).sum() / len(pairs), atol=1e-8, rtol=1e-6)
    change = slow.corrupt.values["1.resid_pre"] - slow.clean.values["1.resid_pre"]
    own = (change * gradients["1.resid_pre"]).sum((0, 2)) / len(pairs)
    torch.testing.assert_close(nodes["resid_pre"].values[1], own, atol=1e-8, rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_a_secant_s_first_order_is_the_recomputed_softmax(kind: str) -> None:
    """Of queries, and of all keys together: the QK fix, but as a gradient that goes on upstream."""
    anatomy, pairs = exact(kind), some_pairs()
    given = {"metric": difference(pairs), "nodes": ("attn.q", "attn.k"), "secants": True}
    first_order = attribution_patching(anatomy, pairs, **given)
    recomputed = attribution_patching(anatomy, pairs, **given, qk_fix=True)
    for name in ("attn.q", "attn.k"):
        assert recomputed[name].values.abs().max() > 1e-2
        torch.testing.assert_close(first_order[name].values, recomputed[name].values, atol=1e-9, rtol=1e-7)


NUMBER = st.floats(-200, 200)


@settings(max_examples=40)
@given(st.lists(st.tuples(NUMBER, NUMBER, st.floats(-5, 5)), min_size=1, max_size=6), st.integers(0, 3))
def test_the_secant_turns_a_difference_of_scores_into_that_of_probabilities(
    rows: list[tuple[float, float, float]], hidden: int
) -> None:
    a, b, gradient = torch.tensor(rows, dtype=torch.float64).T
    a, b = (torch.cat([x, torch.full((hidden,), -torch.inf)]) for x in (a, b))
    gradient = torch.cat([gradient, torch.ones(hidden)])
    logs = a.log_softmax(-1), b.log_softmax(-1)
    back = softmax_secant(*logs, gradient)
    shift = (b - a)[: len(rows)] @ back[: len(rows)]
    assert float(shift) == pytest.approx(float((b.softmax(-1) - a.softmax(-1)) @ gradient), abs=1e-9)
    assert not back[len(rows) :].any()
    torch.testing.assert_close(back, softmax_secant(*logs[::-1], gradient))


def test_where_both_runs_meet_the_secant_is_the_gradient() -> None:
    g = torch.Generator().manual_seed(0)
    scores, gradient = torch.randn(2, 4, 7, generator=g, dtype=torch.float64)
    own = scores.log_softmax(-1)
    _, back = torch.autograd.functional.vjp(lambda x: x.softmax(-1), scores, gradient)
    torch.testing.assert_close(softmax_secant(own, own, gradient), back)
    torch.testing.assert_close(softmax_secant(own, (scores + 1e-7).log_softmax(-1), gradient), back)


@cache
def measured(net: KnownCircuit, n: int = 4) -> tuple[Pairs, Metric, Tensor, Tensor]:
    """Pairs, their metric, which edges there are and what each does by exact patching."""
    pairs = net.pairs(n, torch.Generator().manual_seed(21))
    found = patch_paths(net.anatomy, pairs, metric=difference(pairs))
    return pairs, difference(pairs), found.there, found.values[found.there]


def agrees(values: Tensor, exact: Tensor) -> tuple[float, int]:
    """Pearson, and how many edges that matter are passed over."""
    matters = exact.abs() > IMPORTANT * exact.abs().max()
    return pearson(exact, values), int((matters & (values.abs() < MISSED * values.abs().max())).sum())


@pytest.mark.parametrize("corruption", CORRUPTIONS)
@pytest.mark.parametrize("sharpness", [2.0, 10.0, 40.0])
def test_on_induction_by_hand_secants_agree_with_patching_however_sharp_the_softmax(
    sharpness: float, corruption: str
) -> None:
    net = induction(sharpness, seed=21, **CORRUPTIONS[corruption])  # type: ignore[arg-type]
    pairs, metric, there, exact_effects = measured(net)
    found = edge_attribution(net.anatomy, pairs, metric=metric, secants=True).values[there]
    correlation, missed = agrees(found, exact_effects)
    assert correlation >= 0.95
    assert missed == 0
    if sharpness == 40:
        plain = edge_attribution(net.anatomy, pairs, metric=metric).values[there]
        assert agrees(plain, exact_effects)[1] >= 2


@pytest.mark.parametrize("make", [reverse, fraction])
def test_on_programs_secants_see_what_a_dead_relu_and_a_steep_step_hide(make: object) -> None:
    net: KnownCircuit = make(noise=0.001, seed=21)  # type: ignore[operator]
    pairs, metric, there, exact_effects = measured(net)
    found = edge_attribution(net.anatomy, pairs, metric=metric, secants=True).values[there]
    correlation, missed = agrees(found, exact_effects)
    assert correlation >= 0.95
    assert missed == 0
    assert agrees(edge_attribution(net.anatomy, pairs, metric=metric).values[there], exact_effects)[0] < 0.9


def test_no_number_of_steps_makes_integrated_gradients_see_a_key_and_a_value_alone() -> None:
    """Attention stays until the embedding is nearly corrupt; by then the value has nothing left to lose."""
    net = induction(40.0, seed=21, changed=("first", "answer"), broken=True)
    pairs, metric, there, exact_effects = measured(net)
    graph = graph_of(net.anatomy)
    senders, receivers = (list(map(str, nodes)) for nodes in (graph.senders, graph.receivers))
    key = senders.index("blocks.0.attn.head_out.1"), receivers.index("blocks.1.attn.head_k_in.2")
    truth = torch.zeros(there.shape, dtype=torch.float64).masked_scatter(there, exact_effects.double())[key]
    assert truth < -5
    for steps in (5, 60):
        found = edge_attribution_ig(net.anatomy, pairs, metric=metric, steps=steps).values
        assert float(found[key] / truth) < 0.5
        assert agrees(found[there], exact_effects)[0] < 0.95


def test_what_two_senders_do_only_together_is_shared_out() -> None:
    """AND of two heads: cutting either one does all; each is given half."""
    net = and_gate()
    pairs, metric, there, exact_effects = measured(net)
    found = edge_attribution(net.anatomy, pairs, metric=metric, secants=True).values[there]
    parts = exact_effects < -1
    halves = found[parts] / exact_effects[parts]
    assert int(parts.sum()) == 5
    assert sorted(halves.round(decimals=3).tolist()) == [0.5, 0.5, 0.5, 0.5, 1.0]
