"""Path patching against whole passes, a slow loop, a linear network and a circuit that is known."""

from dataclasses import replace

import pytest
import torch
from drawn_decoders import decoder, difference, linear, prompts
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from candling.access.anatomy import Anatomy
from candling.access.edges import EdgeRun, ablate_edges, written
from candling.access.graph import Node, graph_of
from candling.access.pairs import Pairs
from candling.organisms.networks.gates import and_gate, or_gate
from candling.organisms.networks.induction import induction
from candling.techniques.locate.contract import LogitDifference
from candling.techniques.locate.path_patching import patch_paths

THREE = decoder(layers=3, heads=2, groups=1)


@pytest.mark.parametrize("denoising", [False, True])
def test_an_edge_s_effect_is_that_of_a_whole_pass_without_it(denoising: bool) -> None:
    its = prompts()
    metric, edges = difference(its), graph_of(THREE).edges
    scores = patch_paths(THREE, its, metric=metric, denoising=denoising)
    run = EdgeRun(THREE, its, denoising=denoising)
    whole = metric(run(edges)).mean()
    for sender, receiver in torch.nonzero(edges).tolist():
        mask = edges.clone()
        mask[sender, receiver] = False
        truth = metric(run(mask)).mean() - whole
        torch.testing.assert_close(scores.values[sender, receiver], truth, atol=1e-9, rtol=1e-7)
    assert torch.equal(scores.there, edges)
    rows = torch.arange(len(its))
    for value, tokens in ((scores.clean, its.clean), (scores.corrupt, its.corrupt)):
        assert value == pytest.approx(float(metric(THREE(tokens)[rows, its.last]).mean()))
    assert scores.cost.forward >= len(its) * (2 + int(edges.sum()))


def slow_direct(anatomy: Anatomy, its: Pairs, sender: int, receiver: Node) -> Tensor:
    """Logits [n, V]: one head or MLP is computed with one input swapped, all else stays."""
    clean, corrupt = (written(anatomy, tokens) for tokens in (its.clean, its.corrupt))
    x = anatomy.embed(its.clean)
    for block in anatomy.blocks[: max(receiver.layer, 0)]:
        x = block(x)
    swap = corrupt[sender] - clean[sender]
    rows, final = torch.arange(len(its)), anatomy.embed(its.clean)
    for block in anatomy.blocks:
        final = block(final)
    if receiver.kind == "logits":
        return anatomy.unembed((final + swap)[rows, its.last])
    block = anatomy.blocks[receiver.layer]
    own, norm = block.attention, block.attention_norm
    if receiver.kind == "mlp":
        assert block.mlp is not None
        read = x if block.parallel else x + own(norm(x))
        change = block.mlp(block.mlp_norm(read + swap)) - block.mlp(block.mlp_norm(read))
    else:
        parts = {"q": own.queries(norm(x)), "k": own.keys(norm(x)), "v": own.values(norm(x))}
        before = own.written(own.scores(parts["q"], own.spread(parts["k"])).softmax(-1) @ own.spread(parts["v"]))
        new = {"q": own.queries, "k": own.keys, "v": own.values}[receiver.slot](norm(x + swap))
        parts[receiver.slot] = parts[receiver.slot].clone()
        parts[receiver.slot][:, receiver.index] = new[:, receiver.index]
        after = own.written(own.scores(parts["q"], own.spread(parts["k"])).softmax(-1) @ own.spread(parts["v"]))
        change = (after - before).sum(1)
    return anatomy.unembed((final + change)[rows, its.last])


def test_a_direct_path_is_one_node_computed_again_and_all_else_frozen() -> None:
    its = prompts(1)
    metric, graph = difference(its), graph_of(THREE)
    scores = patch_paths(THREE, its, metric=metric, direct=True)
    whole = metric(THREE(its.clean)[torch.arange(len(its)), its.last]).mean()
    for sender, receiver in torch.nonzero(graph.edges).tolist():
        truth = metric(slow_direct(THREE, its, sender, graph.receivers[receiver])).mean() - whole
        torch.testing.assert_close(scores.values[sender, receiver], truth, atol=1e-9, rtol=1e-7)
    assert torch.equal(scores.there, graph.edges)


@settings(max_examples=5)
@given(st.integers(0, 10_000))
def test_in_a_linear_network_paths_add_up(seed: int) -> None:
    """Of a sender, over its receivers, to what it does as a whole; of the logits, and of direct paths, to all."""
    its, anatomy = prompts(seed), linear(seed)
    metric = difference(its)
    scores = patch_paths(anatomy, its, metric=metric)
    total = scores.corrupt - scores.clean
    assert float(scores.values[:, -1].sum()) == pytest.approx(total, abs=1e-9)
    graph = graph_of(anatomy)
    for sender in range(len(graph.senders)):
        mask = graph.edges.clone()
        mask[sender] = False
        truth = float(metric(ablate_edges(anatomy, its, mask)).mean()) - scores.clean
        assert float(scores.values[sender].nansum()) == pytest.approx(truth, abs=1e-9)
    direct = patch_paths(anatomy, its, metric=metric, direct=True).values
    torch.testing.assert_close(direct[:, -1], scores.values[:, -1])
    assert float(direct[:, :-1].nansum() + direct[0, -1]) == pytest.approx(total, abs=1e-9)
    silent = [place for place, node in enumerate(graph.receivers) if node.slot in ("q", "k")]
    assert not scores.values[:, silent].nan_to_num().any()  # patterns are flat whatever they are told


@pytest.mark.parametrize("sharpness", [2.0, 40.0])
def test_the_circuit_of_an_induction_network_is_found_and_decoys_are_exactly_0(sharpness: float) -> None:
    known = induction(sharpness)
    its = known.pairs(16, torch.Generator().manual_seed(0))
    scores = patch_paths(known.ideal, its, metric=difference(its))
    found = scores.values.nan_to_num() != 0
    assert torch.equal(found, known.identifiable(its))
    assert int(found.sum()) == 5


def test_noising_finds_both_parts_of_an_and_and_neither_of_an_or() -> None:
    for known in (and_gate(), or_gate()):
        its = known.pairs(8, torch.Generator().manual_seed(1))
        for denoising in (False, True):
            scores = patch_paths(known.ideal, its, metric=difference(its), denoising=denoising)
            found = scores.values.nan_to_num().abs() > 1e-4
            assert torch.equal(found, known.identifiable(its, denoising=denoising))


def test_prompts_that_are_the_same_show_nothing_and_other_metrics_serve() -> None:
    its = prompts()
    same = replace(its, corrupt=its.clean)
    assert not patch_paths(THREE, same, metric=difference(its)).values.nan_to_num().any()
    metric = difference(its)
    plain = patch_paths(THREE, its, metric=lambda logits: LogitDifference(its.answer, its.wrong)(logits))
    torch.testing.assert_close(plain.values, patch_paths(THREE, its, metric=metric).values, equal_nan=True)
