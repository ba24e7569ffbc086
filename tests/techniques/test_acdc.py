"""ACDC against the plain algorithm, whole passes one after another, and against circuits that are known."""

from collections.abc import Callable

import pytest
import torch
from drawn_decoders import decoder, difference, prompts
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from candling.access.anatomy import Anatomy
from candling.access.edges import EdgeRun
from candling.access.graph import Graph, graph_of
from candling.access.pairs import Pairs
from candling.errors import InputError
from candling.organisms.networks.gates import KnownCircuit, and_gate, or_gate
from candling.organisms.networks.programs import fraction, reverse
from candling.techniques.locate.acdc import acdc
from candling.techniques.locate.circuit_type import Circuit
from candling.techniques.locate.contract import Metric

THREE = decoder(layers=3, heads=2, groups=1)


def lost(anatomy: Anatomy, its: Pairs) -> Metric:
    """KL from the clean run."""
    clean = anatomy(its.clean)[torch.arange(len(its)), its.last].log_softmax(-1)
    return lambda logits: (clean.exp() * (clean - logits.log_softmax(-1))).sum(-1)


def plain(run: EdgeRun, metric: Metric, drops: Callable[[float], bool]) -> Tensor:
    """Algorithm 1: one edge, one pass."""
    kept = run.graph.edges.clone()
    value = float(metric(run(kept)).mean())
    for receiver in reversed(range(kept.shape[1])):
        for sender in reversed(range(kept.shape[0])):
            if not kept[sender, receiver]:
                continue
            kept[sender, receiver] = False
            new = float(metric(run(kept)).mean())
            if drops(new - value):
                value = new
            else:
                kept[sender, receiver] = True
    return kept


@pytest.mark.parametrize("denoising", [False, True])
@pytest.mark.parametrize("tau", [0.003, 0.05])
def test_the_circuit_is_that_of_the_plain_algorithm(tau: float, denoising: bool) -> None:
    its = prompts()
    metric, run = difference(its), EdgeRun(THREE, its, denoising=denoising)
    truth = plain(run, metric, lambda change: abs(change) < tau)
    assert 0 < int(truth.sum()) < int(run.graph.edges.sum())
    for batch in (1, 16):
        found = acdc(THREE, its, tau, metric=metric, denoising=denoising, batch=batch)
        assert torch.equal(found.kept, truth)
        assert found.value == pytest.approx(float(metric(run(found.kept)).mean()), abs=1e-9)


@settings(max_examples=4)
@given(st.integers(0, 10_000), st.floats(1e-3, 0.1))
def test_also_with_a_loss_that_may_fall(seed: int, tau: float) -> None:
    its, anatomy = prompts(seed, n=2), decoder(seed)
    metric = lost(anatomy, its)
    truth = plain(EdgeRun(anatomy, its), metric, lambda change: change < tau)
    found = acdc(anatomy, its, tau, metric=metric, loss=True)
    assert torch.equal(found.kept, truth)
    assert found.clean == pytest.approx(0, abs=1e-9)


def zero_ablated(known: KnownCircuit, tau: float) -> Circuit:
    its = known.pairs(24, torch.Generator().manual_seed(0))
    clean = known.ideal(its.clean)[torch.arange(len(its)), its.last]
    return acdc(
        known.ideal,
        its,
        tau,
        metric=lambda logits: (logits - clean).pow(2).sum(-1),
        loss=True,
        source=torch.zeros(1, 1, 1, 1),
    )


@pytest.mark.parametrize("known", [reverse(), fraction()], ids=["reverse", "fraction"])
def test_compiled_programs_are_found_edge_for_edge(known: KnownCircuit) -> None:
    """Zero ablation and squared error, as for Tracr's programs in the paper."""
    found = zero_ablated(known, 1e-3)
    assert torch.equal(found.kept, known.truth)


def gate(known: KnownCircuit, denoising: bool) -> tuple[Tensor, Tensor]:
    its = known.pairs(8, torch.Generator().manual_seed(1))
    found = acdc(known.ideal, its, 0.01, metric=difference(its), denoising=denoising)
    return found.kept, known.identifiable(its, denoising=not denoising) | known.identifiable(its, denoising=denoising)


def test_of_an_or_one_part_is_missed_and_of_an_and_none() -> None:
    """The known failure: with A cut, B alone carries the answer, and is kept. Denoising turns this round."""
    for known, denoising in ((and_gate(), False), (or_gate(), True)):
        kept, truth = gate(known, denoising)
        assert truth.sum() == 5  # from the values of both finders to the gate and on
        assert torch.equal(kept, truth)
    for known, denoising in ((or_gate(), False), (and_gate(), True)):
        kept, truth = gate(known, denoising)
        assert kept.sum() == 3
        assert not (kept & ~truth).any()


def test_the_threshold_goes_from_everything_that_matters_to_nothing() -> None:
    its = prompts(2)
    metric = difference(its)
    sizes = [acdc(THREE, its, tau, metric=metric).edges for tau in (1e-7, 1e-2, 1e-1, 1e6)]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] == 0
    with pytest.raises(InputError, match="tau"):
        acdc(THREE, its, 0.0, metric=metric)


def test_what_leads_nowhere_is_pruned_and_changes_nothing() -> None:
    its, graph = prompts(), graph_of(THREE)
    run = EdgeRun(THREE, its)
    g = torch.Generator().manual_seed(0)
    for share in (0.05, 0.2, 0.6):
        circuit = Circuit(graph, graph.edges & (torch.rand(graph.edges.shape, generator=g) < share))
        pruned = circuit.pruned()
        assert not (pruned.kept & ~circuit.kept).any()
        torch.testing.assert_close(run(pruned.kept), run(circuit.kept))
        assert pruned.edges == len(pruned.names()) == int(pruned.kept.sum())
        assert set(pruned.nodes) == {sender for sender, _ in pruned.names()}
        assert torch.equal(pruned.pruned().kept, pruned.kept)
    whole = Circuit(graph, graph.edges)
    assert torch.equal(whole.pruned().kept, graph.edges)
    lonely = torch.zeros_like(graph.edges)
    lonely[0, 0] = True
    assert Circuit(graph, lonely).pruned().edges == 0
    with pytest.raises(InputError, match="edge that the graph lacks"):
        Circuit(graph, torch.ones_like(graph.edges))
    with pytest.raises(InputError, match="give bool"):
        Circuit(graph, graph.edges.float())


def test_the_graph_of_the_benchmark_has_479_edges() -> None:
    graph = Graph(heads=(4,) * 4, groups=(4,) * 4, mlps=(True,) * 4, parallel=(False,) * 4)
    assert int(graph.edges.sum()) == 479
