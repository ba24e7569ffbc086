"""Edge attribution against a slow re-derivation, and where it must be exact."""

from dataclasses import replace

import pytest
import torch
from leaves import KINDS, Slow, exact, some_pairs, tensors
from torch import Tensor

from candling.access.anatomy import MLP, Anatomy, Attention, Block, Norm
from candling.access.graph import graph_of
from candling.access.pairs import Pairs
from candling.errors import InputError
from candling.techniques.locate.attribution_patching import attribution_patching
from candling.techniques.locate.contract import LogitDifference, Metric, Scores
from candling.techniques.locate.edge_attribution import edge_attribution, edge_attribution_ig

CLOSE = {"atol": 2.5e-5, "rtol": 0.0}


def difference(pairs: Pairs) -> LogitDifference:
    return LogitDifference(pairs.answer, pairs.wrong)


def surprise(pairs: Pairs) -> Metric:
    """A metric that is not linear and wants all logits."""
    return lambda logits: logits.log_softmax(-1)[torch.arange(len(logits)), pairs.answer]


def slowly(anatomy: Anatomy, pairs: Pairs, metric: Metric, steps: int = 0) -> Tensor:
    """Every edge by itself, from the definition."""
    graph = graph_of(anatomy)
    clean, corrupt = Slow(anatomy, pairs.clean), Slow(anatomy, pairs.corrupt)
    start, way = anatomy.embed(pairs.corrupt), anatomy.embed(pairs.clean) - anatomy.embed(pairs.corrupt)
    runs = [Slow(anatomy, pairs.clean, embedded=start + (k + 0.5) / steps * way) for k in range(steps)] or [clean]
    gradients = [run.gradients(pairs, metric) for run in runs]
    values = torch.full(graph.edges.shape, torch.nan, dtype=torch.float64)
    for s, sender in enumerate(map(str, graph.senders)):
        change = (corrupt.written[sender] - clean.written[sender]).detach()
        for r, receiver in enumerate(map(str, graph.receivers)):
            if graph.edges[s, r]:
                own = [(change * gradient[receiver]).sum() / len(pairs) for gradient in gradients]
                values[s, r] = torch.stack(own).mean()
    return values


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("steps", [0, 3])
def test_every_edge_is_as_the_definition_gives_it(kind: str, steps: int) -> None:
    anatomy, pairs = exact(kind), some_pairs()
    for metric in (difference(pairs), surprise(pairs)):
        found = (
            edge_attribution_ig(anatomy, pairs, metric=metric, steps=steps)
            if steps
            else edge_attribution(anatomy, pairs, metric=metric)
        )
        expected = slowly(anatomy, pairs, metric, steps)
        assert expected.nan_to_num().abs().max() > 1e-2
        torch.testing.assert_close(found.values, expected, equal_nan=True, atol=1e-9, rtol=1e-7)
        clean, corrupt = (metric(Slow(anatomy, run).ends(pairs).detach()) for run in (pairs.clean, pairs.corrupt))
        assert found.clean == pytest.approx(float(clean.mean()))
        assert found.corrupt == pytest.approx(float(corrupt.mean()))


@pytest.mark.parametrize("kind", KINDS)
def test_single_precision_agrees_too(kind: str) -> None:
    pairs = some_pairs(first=0)
    found = edge_attribution(exact(kind, torch.float32), pairs, metric=difference(pairs))
    expected = slowly(exact(kind), pairs, difference(pairs))
    torch.testing.assert_close(found.values, expected, equal_nan=True, **CLOSE)


def test_blocks_may_lack_an_mlp_or_run_beside_it() -> None:
    pairs = some_pairs()
    whole = exact("gpt2")
    first, second = whole.blocks
    for blocks in (
        (replace(first, mlp=None), second),
        (first, replace(second, mlp=None)),
        (replace(first, parallel=True), second, first),
        (second,),
        (),
    ):
        anatomy = replace(whole, blocks=blocks)
        found = edge_attribution(anatomy, pairs, metric=difference(pairs)).values
        expected = slowly(anatomy, pairs, difference(pairs))
        torch.testing.assert_close(found, expected, equal_nan=True, atol=1e-9, rtol=1e-7)


def test_passes_of_any_size_give_the_same() -> None:
    anatomy, pairs = exact("llama"), some_pairs(5)
    for metric in (difference(pairs), surprise(pairs)):
        whole = edge_attribution_ig(anatomy, pairs, metric=metric, steps=2)
        for batch in (1, 2):
            parts = edge_attribution_ig(anatomy, pairs, metric=metric, steps=2, batch=batch)
            torch.testing.assert_close(parts.values, whole.values, equal_nan=True, atol=1e-10, rtol=0)
            assert parts.clean == pytest.approx(whole.clean)
            assert parts.corrupt == pytest.approx(whole.corrupt)
            assert parts.cost == whole.cost


def test_the_same_prompt_twice_has_no_effect() -> None:
    anatomy, pairs = exact("gpt_neox"), some_pairs()
    same = replace(pairs, corrupt=pairs.clean)
    for found in (
        edge_attribution(anatomy, same, metric=difference(same)),
        edge_attribution_ig(anatomy, same, metric=difference(same), steps=2),
    ):
        assert found.values[found.there].abs().max() < 1e-13
        assert found.there.equal(graph_of(anatomy).edges)


@pytest.mark.parametrize("kind", KINDS)
def test_what_senders_do_to_the_logits_adds_up_to_the_stream_at_the_end(kind: str) -> None:
    anatomy, pairs = exact(kind), some_pairs()
    edges = edge_attribution(anatomy, pairs, metric=difference(pairs))
    nodes = attribution_patching(anatomy, pairs, metric=difference(pairs), nodes=["resid_pre"])["resid_pre"]
    torch.testing.assert_close(edges.values[:, -1].sum(), nodes.values[-1].sum(), atol=1e-10, rtol=0)


def linear_decoder(seed: int = 0, depth: int = 3, parallel: bool = False) -> Anatomy:
    """No norms, attention that looks at all alike, MLPs without activation: logits are linear in the embedding."""
    g = torch.Generator().manual_seed(seed)

    def some(*shape: int) -> Tensor:
        return torch.randn(shape, generator=g, dtype=torch.float64) / 2

    blind = torch.zeros(2, 3, 6, dtype=torch.float64)
    blocks = tuple(
        Block(
            Attention(blind, blind, some(2, 3, 6), some(2, 3, 6), 1.0),
            Norm(),
            MLP(some(8, 6), some(6, 8), lambda x: 1 * x),
            Norm(),
            parallel,
        )
        for _ in range(depth)
    )
    return Anatomy(some(300, 6), blocks, Norm(), some(300, 6))


def by_patching(anatomy: Anatomy, pairs: Pairs, metric: Metric) -> Tensor:
    """Each edge's exact effect: the sender's change put on the receiver's input alone."""
    graph = graph_of(anatomy)
    clean, corrupt = Slow(anatomy, pairs.clean), Slow(anatomy, pairs.corrupt)
    values = torch.full(graph.edges.shape, torch.nan, dtype=torch.float64)
    for s, sender in enumerate(map(str, graph.senders)):
        change = corrupt.written[sender] - clean.written[sender]
        for r, receiver in enumerate(map(str, graph.receivers)):
            if graph.edges[s, r]:
                patched = Slow(anatomy, pairs.clean, added={receiver: change})
                values[s, r] = (metric(patched.ends(pairs)) - metric(clean.ends(pairs))).mean().detach()
    return values


@pytest.mark.parametrize("parallel", [False, True])
def test_in_a_linear_decoder_attribution_is_patching(parallel: bool) -> None:
    anatomy, pairs = linear_decoder(parallel=parallel), some_pairs()
    metric = difference(pairs)
    expected = by_patching(anatomy, pairs, metric)
    assert expected.nan_to_num().abs().max() > 0.1
    for found in (
        edge_attribution(anatomy, pairs, metric=metric),
        edge_attribution_ig(anatomy, pairs, metric=metric, steps=2),
    ):
        torch.testing.assert_close(found.values, expected, equal_nan=True, atol=1e-10, rtol=0)


def switch(depth_of_saturation: float) -> tuple[Anatomy, Pairs]:
    """A metric of the stream that is flat at the clean prompt: an MLP whose tanh is saturated there."""
    embedding = torch.zeros(300, 2, dtype=torch.float64)
    embedding[1, 0], embedding[2, 0] = depth_of_saturation, -depth_of_saturation
    nothing = torch.zeros(1, 1, 2, dtype=torch.float64)
    mlp = MLP(torch.tensor([[1.0, 0.0]]).double(), torch.tensor([[0.0], [1.0]]).double(), torch.tanh)
    block = Block(Attention(nothing, nothing, nothing, nothing, 1.0), Norm(), mlp, Norm())
    unembedding = torch.zeros(300, 2, dtype=torch.float64)
    unembedding[5, 1] = 1.0
    row = torch.ones(1, 1, dtype=torch.int64)
    pairs = Pairs(row, 2 * row, torch.tensor([5]), torch.tensor([6]), torch.tensor([0]))
    return Anatomy(embedding, (block,), Norm(), unembedding), pairs


def edge(scores: Scores, sender: str, receiver: str) -> float:
    senders, receivers = (axis.labels for axis in scores.axes)
    return float(scores.values[senders.index(sender), receivers.index(receiver)])


def test_integrated_gradients_see_what_is_saturated_at_the_clean_prompt() -> None:
    """Exact effect of embed → MLP: tanh(-4) - tanh(4) = -1.9987."""
    anatomy, pairs = switch(4.0)
    name = ("embed", "blocks.0.mlp.in")
    plain = edge(edge_attribution(anatomy, pairs, metric=difference(pairs)), *name)
    assert -0.02 < plain < 0
    fine = edge(edge_attribution_ig(anatomy, pairs, metric=difference(pairs), steps=40), *name)
    assert fine == pytest.approx(-1.9987, abs=1e-3)
    five = edge(edge_attribution_ig(anatomy, pairs, metric=difference(pairs)), *name)
    slopes = 1 - torch.tanh(torch.tensor([-3.2, -1.6, 0.0, 1.6, 3.2])) ** 2  # the midpoints of five steps
    assert five == pytest.approx(float(-8 * slopes.mean()), abs=1e-6)


def test_weights_get_no_gradient() -> None:
    anatomy, pairs = linear_decoder(), some_pairs()
    own = tensors(anatomy)
    assert len(own) == 2 + 3 * 6
    for weight in own:
        weight.requires_grad_()
    edge_attribution(anatomy, pairs, metric=difference(pairs))
    attribution_patching(anatomy, pairs, metric=surprise(pairs))
    assert all(weight.grad is None for weight in own)


def test_no_step_is_refused() -> None:
    anatomy, pairs = linear_decoder(), some_pairs()
    with pytest.raises(InputError, match="at least 1"):
        edge_attribution_ig(anatomy, pairs, metric=difference(pairs), steps=0)
