"""Circuits: dead ends have no effect, the search finds a planted one, faithfulness is what plain passes give."""

from dataclasses import replace

import pytest
import torch
from drawn_decoders import decoder, difference, prompts
from hypothesis import given, settings
from hypothesis import strategies as st

from candling.access.anatomy import Anatomy
from candling.access.edges import ablate_edges
from candling.access.graph import graph_of
from candling.access.pairs import Pairs, halves
from candling.access.paths import random_circuit, without_dead_ends
from candling.errors import InputError
from candling.techniques.locate.check import edge_effects
from candling.techniques.locate.circuit import FoundCircuit, circuit
from candling.techniques.locate.contract import Axis, Metric, Scores
from candling.techniques.locate.faithfulness import Judge

ANATOMY, PAIRS = decoder(), prompts(n=6)
GRAPH = graph_of(ANATOMY)


def exactly(anatomy: Anatomy, pairs: Pairs, metric: Metric) -> Scores:
    """Every edge's own effect in place of an estimate."""
    from candling.evidence.measurement import Cost

    graph = graph_of(anatomy)
    places = torch.nonzero(graph.edges)
    values = torch.full(graph.edges.shape, torch.nan, dtype=torch.float64)
    values[tuple(places.T)] = edge_effects(anatomy, pairs, metric, places)
    judge = Judge(anatomy, pairs, metric)
    axes = (Axis("sender", tuple(map(str, graph.senders))), Axis("receiver", tuple(map(str, graph.receivers))))
    return Scores("exact", values, axes, judge.clean, judge.corrupt, Cost(forward=0, backward=0))


def masks(seed: int, share: float) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    return (torch.rand(GRAPH.edges.shape, generator=g) < share) & GRAPH.edges


@settings(max_examples=25)
@given(st.integers(0, 10_000), st.floats(0.01, 0.9))
def test_dead_ends_have_no_effect_and_nothing_else_is_dropped(seed: int, share: float) -> None:
    kept = masks(seed, share)
    left = without_dead_ends(GRAPH, kept)
    assert not (left & ~kept).any()
    torch.testing.assert_close(
        ablate_edges(ANATOMY, PAIRS, left), ablate_edges(ANATOMY, PAIRS, kept), atol=1e-9, rtol=0
    )
    assert torch.equal(without_dead_ends(GRAPH, left), left)
    live = [name for name in map(str, GRAPH.senders) if left[list(map(str, GRAPH.senders)).index(name)].any()]
    assert not left.any() or "embed" in live
    assert not left.any() or left[:, -1].any()


@given(st.integers(1, 150), st.integers(0, 100))
def test_random_circuits_have_their_size_and_are_made_of_paths(edges: int, seed: int) -> None:
    size = min(edges, int(GRAPH.edges.sum()))
    drawn = random_circuit(GRAPH, size, torch.Generator().manual_seed(seed))
    assert int(drawn.sum()) == size
    assert not (drawn & ~GRAPH.edges).any()
    loose = size - int(without_dead_ends(GRAPH, drawn).sum())
    assert loose <= 6 or size > int(GRAPH.edges.sum()) // 2


def test_all_edges_keep_all_and_none_keeps_none() -> None:
    judge = Judge(ANATOMY, PAIRS, difference(PAIRS))
    ends = torch.stack([GRAPH.edges, torch.zeros_like(GRAPH.edges)])
    assert judge.faithfulness(ends) == pytest.approx([1, 0], abs=1e-9)
    assert judge.error(ends).tolist() == pytest.approx([0, 1], abs=1e-9)
    rows = torch.arange(len(PAIRS))
    for value, tokens in ((judge.clean, PAIRS.clean), (judge.corrupt, PAIRS.corrupt)):
        logits = ANATOMY(tokens)[rows, PAIRS.last]
        assert value == pytest.approx(float(difference(PAIRS)(logits).mean()), abs=1e-9)


def test_pairs_that_differ_in_nothing_are_refused() -> None:
    alike = replace(PAIRS, corrupt=PAIRS.clean)
    with pytest.raises(InputError, match="nothing to explain"):
        Judge(ANATOMY, alike, difference(alike))


def only(kept: torch.Tensor) -> Anatomy:
    """The network with the output of every head and MLP that the mask does not read set to nothing."""
    blocks = []
    names = [str(sender) for sender, used in zip(GRAPH.senders, kept.any(1), strict=True) if used]
    for layer, block in enumerate(ANATOMY.blocks):
        output = block.attention.output.clone()
        for head in range(len(output)):
            if f"blocks.{layer}.attn.head_out.{head}" not in names:
                output[head] = 0
        assert block.mlp is not None
        down = block.mlp.down if f"blocks.{layer}.mlp.out" in names else torch.zeros_like(block.mlp.down)
        attention = replace(block.attention, output=output)
        blocks.append(replace(block, attention=attention, mlp=replace(block.mlp, down=down)))
    return replace(ANATOMY, blocks=tuple(blocks))


@pytest.fixture(scope="module")
def planted() -> tuple[Anatomy, set[str], FoundCircuit]:
    """A network in which one head and one MLP alone write anything, and the circuit that is found in it."""
    senders = list(map(str, GRAPH.senders))
    writing = {"blocks.0.attn.head_out.1", "blocks.1.mlp.out"}
    kept = torch.zeros_like(GRAPH.edges)
    kept[[senders.index(name) for name in writing]] = True
    anatomy = only(kept)
    return anatomy, writing, circuit(anatomy, PAIRS, attribution=exactly, untrained=decoder(5), largest=60)


def test_a_planted_circuit_is_found_and_holds_on_the_other_half(
    planted: tuple[Anatomy, set[str], FoundCircuit],
) -> None:
    anatomy, writing, found = planted
    assert set(found.circuit.nodes) <= writing | {"embed"}
    assert found.point.edges == found.circuit.edges < found.edges // 4
    assert found.point.finding == pytest.approx(1, abs=0.1)
    _, held_out = halves(PAIRS, salt="explain 0")
    again = Judge(anatomy, held_out, difference(held_out)).faithfulness(found.circuit.kept[None])[0]
    assert found.point.held_out == pytest.approx(again, abs=1e-9)
    assert found.claim.predicted == pytest.approx(again, abs=1e-5)
    assert (found.finding_pairs, found.held_out_pairs) == (3, 3)


def test_the_curve_ends_in_the_whole_network_and_has_its_controls(
    planted: tuple[Anatomy, set[str], FoundCircuit],
) -> None:
    _, _, found = planted
    sizes = [point.edges for point in found.curve]
    assert sizes == sorted(set(sizes))
    whole = found.curve[-1]
    assert whole.edges == found.edges
    assert (whole.held_out, whole.random, whole.random_most) == pytest.approx((1, 1, 1), abs=1e-9)
    assert all(point.random <= point.random_most for point in found.curve)
    assert found.untrained
    assert found.untrained[-1] == (found.edges, pytest.approx(1, abs=1e-6))


def test_confirmed_effects_are_exact(planted: tuple[Anatomy, set[str], FoundCircuit]) -> None:
    anatomy, _, found = planted
    finding, _ = halves(PAIRS, salt="explain 0")
    places = torch.nonzero(~found.effects.isnan())[::7]
    clean = difference(finding)(ablate_edges(anatomy, finding, GRAPH.edges)).mean()
    for sender, receiver in places.tolist():
        kept = GRAPH.edges.clone()
        kept[sender, receiver] = False
        effect = difference(finding)(ablate_edges(anatomy, finding, kept)).mean() - clean
        assert float(found.effects[sender, receiver]) == pytest.approx(float(effect), abs=1e-9)


def test_a_useless_ranking_still_keeps_what_is_asked_for() -> None:
    """The order is turned round: whatever is cut too soon is put back by taking a larger circuit."""

    def backwards(anatomy: Anatomy, pairs: Pairs, metric: Metric) -> Scores:
        scores = exactly(anatomy, pairs, metric)
        return replace(scores, values=1 / (scores.values.abs() + 1e-9))

    found = circuit(ANATOMY, PAIRS, attribution=backwards, largest=20)
    assert found.point.finding == pytest.approx(1, abs=0.071)
    assert int((~found.effects.isnan()).sum()) == 20
    assert found.untrained_gap is None
