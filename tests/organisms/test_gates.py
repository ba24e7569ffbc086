"""AND and OR: each direction of patching finds exactly its set."""

from collections.abc import Callable
from itertools import product

import pytest
import torch
from edgewise import exact_edges

from candling.access.graph import graph_of
from candling.access.pairs import Pairs
from candling.errors import InputError
from candling.organisms.networks.gates import (
    NO,
    OFF_A,
    OFF_B,
    ON_A,
    ON_B,
    YES,
    KnownCircuit,
    and_gate,
    edges,
    or_gate,
)

Gate = Callable[..., KnownCircuit]
PARTS = {
    ("embed", "blocks.0.attn.head_v_in.0"),
    ("embed", "blocks.0.attn.head_v_in.1"),
    ("blocks.0.attn.head_out.0", "blocks.0.mlp.in"),
    ("blocks.0.attn.head_out.1", "blocks.0.mlp.in"),
}
OUTPUT = {("blocks.0.mlp.out", "logits")}
NEVER = {("embed", "blocks.0.attn.head_k_in.0"), ("embed", "blocks.0.attn.head_k_in.1")}


def drawn(net: KnownCircuit, n: int = 12) -> Pairs:
    return net.pairs(n, torch.Generator().manual_seed(0))


def names(net: KnownCircuit, mask: torch.Tensor) -> set[tuple[str, str]]:
    graph = graph_of(net.anatomy)
    return {(str(graph.senders[s]), str(graph.receivers[r])) for s, r in torch.nonzero(mask).tolist()}


@pytest.mark.parametrize(("gate", "table"), [(and_gate, all), (or_gate, any)])
@pytest.mark.parametrize("noise", [0.0, 0.01])
def test_each_gate_computes_its_table(gate: Gate, table: Callable[[tuple[bool, bool]], bool], noise: float) -> None:
    net = gate(noise=noise)
    pairs = drawn(net, 50)
    for a, b in product((False, True), repeat=2):
        tokens = pairs.clean.clone()
        tokens[tokens == ON_A] = ON_A if a else OFF_A
        tokens[tokens == ON_B] = ON_B if b else OFF_B
        assert (net.anatomy(tokens)[:, -1].argmax(-1) == (YES if table((a, b)) else NO)).all()


@pytest.mark.parametrize(
    ("gate", "denoising", "found"),
    [
        (and_gate, False, PARTS | OUTPUT),
        (and_gate, True, OUTPUT),
        (or_gate, False, OUTPUT),
        (or_gate, True, PARTS | OUTPUT),
    ],
)
def test_a_direction_finds_exactly_its_set(gate: Gate, denoising: bool, found: set[tuple[str, str]]) -> None:
    """Without noise each edge of the set turns the whole answer, and every other does nothing at all."""
    net = gate()
    pairs = drawn(net)
    shown = net.identifiable(pairs, denoising=denoising)
    assert names(net, shown) == found
    effects = exact_edges(net.anatomy, pairs, denoising=denoising)
    torch.testing.assert_close(effects[shown], torch.full_like(effects[shown], 10.0 if denoising else -10.0))
    assert effects[graph_of(net.anatomy).edges & ~shown].abs().max() == 0


@pytest.mark.parametrize("gate", [and_gate, or_gate])
def test_noise_moves_no_edge_across_the_line(gate: Gate) -> None:
    net = gate(noise=0.005, seed=4)
    pairs = drawn(net)
    there = graph_of(net.anatomy).edges
    for denoising in (False, True):
        effects = exact_edges(net.anatomy, pairs, denoising=denoising).abs()
        shown = net.identifiable(pairs, denoising=denoising)
        assert effects[shown].min() > 15 * effects[there & ~shown].max() > 0


def test_the_truth_is_the_parts_the_output_and_what_finds_the_parts() -> None:
    for net in (and_gate(), or_gate()):
        assert names(net, net.truth) == PARTS | OUTPUT | NEVER
        assert not (net.truth & ~graph_of(net.anatomy).edges).any()


def test_an_edge_that_is_not_there_is_refused() -> None:
    anatomy = and_gate().anatomy
    with pytest.raises(InputError, match="no edge"):
        edges(anatomy, [("embed", "blocks.7.mlp.in")])
    with pytest.raises(InputError, match="before its sender"):
        edges(anatomy, [("blocks.0.mlp.out", "blocks.0.mlp.in")])
