"""A check of an attribution: the truth agrees with itself, a planted miss is found, what cannot be seen is named."""

import math
from dataclasses import replace

import pytest
import torch
from drawn_decoders import decoder, difference, prompts

from candling.access.edges import ablate_edges
from candling.access.graph import graph_of
from candling.evidence.measurement import Cost
from candling.techniques.locate.check import check, edge_effects, pearson, unidentified
from candling.techniques.locate.contract import Axis, Scores

ANATOMY, PAIRS = decoder(), prompts()
METRIC = difference(PAIRS)


def truth() -> Scores:
    """Every edge cut alone, one pass after another."""
    graph = graph_of(ANATOMY)
    values = torch.full(graph.edges.shape, torch.nan, dtype=torch.float64)
    clean = METRIC(ablate_edges(ANATOMY, PAIRS, graph.edges)).mean()
    corrupt = METRIC(ablate_edges(ANATOMY, PAIRS, torch.zeros_like(graph.edges))).mean()
    for sender, receiver in torch.nonzero(graph.edges).tolist():
        kept = graph.edges.clone()
        kept[sender, receiver] = False
        values[sender, receiver] = METRIC(ablate_edges(ANATOMY, PAIRS, kept)).mean() - clean
    axes = (Axis("sender", tuple(map(str, graph.senders))), Axis("receiver", tuple(map(str, graph.receivers))))
    return Scores("truth", values, axes, float(clean), float(corrupt), Cost(forward=0, backward=0))


@pytest.fixture(scope="module")
def exact() -> Scores:
    return truth()


def test_effects_are_those_of_one_pass_an_edge(exact: Scores) -> None:
    places = torch.nonzero(exact.there)
    torch.testing.assert_close(
        edge_effects(ANATOMY, PAIRS, METRIC, places), exact.values[tuple(places.T)], atol=1e-9, rtol=0
    )


def test_the_truth_agrees_with_itself_and_misses_nothing(exact: Scores) -> None:
    found = check(exact, ANATOMY, PAIRS, METRIC, parts=10_000)
    assert found.pearson == pytest.approx(1)
    assert found.missed == ()
    assert len(found.at) == found.parts == int(exact.there.sum())
    assert found.unidentified == ()


def test_a_planted_miss_is_found_and_noise_correlates_with_nothing(exact: Scores) -> None:
    best = int(exact.values.abs().nan_to_num(-1).argmax())
    blind = exact.values.clone()
    blind.view(-1)[best] = 0.0
    found = check(replace(exact, values=blind), ANATOMY, PAIRS, METRIC, parts=10_000)
    assert found.missed[0].exact == pytest.approx(float(exact.values.view(-1)[best]))
    assert found.missed[0].part == exact.best(1)[0][0]
    assert found.pearson < 1
    noise = torch.randn(blind.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    random = check(replace(exact, values=noise.masked_fill(~exact.there, torch.nan)), ANATOMY, PAIRS, METRIC)
    assert abs(random.pearson) < 0.3


def test_a_sample_holds_the_best_scored_and_is_the_same_for_the_same_seed(exact: Scores) -> None:
    few = [check(exact, ANATOMY, PAIRS, METRIC, parts=20, seed=seed).at.tolist() for seed in (0, 0, 1)]
    assert few[0] == few[1] != few[2]
    top = torch.nonzero(exact.values.abs() >= exact.values.abs().nan_to_num(-1).flatten().topk(10).values[-1])
    assert all(place in few[0] for place in top.tolist())
    assert len(few[0]) == 20


def test_any_scores_can_be_measured_by_their_own_function() -> None:
    values = torch.tensor([[1.0, 0.0], [0.5, 2.0]], dtype=torch.float64)
    axes = (Axis("layer", ("0", "1")), Axis("head", ("0", "1")))
    scores = Scores("given", values, axes, 0.0, 1.0, Cost(forward=0, backward=0))
    found = check(scores, ANATOMY, PAIRS, METRIC, measure=lambda a, p, m, at: -2 * values[tuple(at.T)])
    assert found.pearson == pytest.approx(-1)


def test_senders_that_write_the_same_on_both_prompts_are_named() -> None:
    alike = replace(PAIRS, corrupt=PAIRS.clean)
    assert unidentified(ANATOMY, alike) == tuple(map(str, graph_of(ANATOMY).senders))
    silent = replace(ANATOMY.blocks[1].attention, output=ANATOMY.blocks[1].attention.output.clone())
    silent.output[2] = 0
    quiet = replace(ANATOMY, blocks=(ANATOMY.blocks[0], replace(ANATOMY.blocks[1], attention=silent)))
    assert unidentified(quiet, PAIRS) == ("blocks.1.attn.head_out.2",)


def test_what_follows_the_end_of_a_prompt_does_not_count() -> None:
    padded = PAIRS.clean.clone()
    for row, last in enumerate(PAIRS.last.tolist()):
        padded[row, last + 1 :] = 0
    assert len(unidentified(ANATOMY, replace(PAIRS, corrupt=padded))) == len(graph_of(ANATOMY).senders)


def test_a_correlation_without_variance_is_undefined() -> None:
    assert math.isnan(pearson(torch.ones(4), torch.arange(4.0)))
    assert pearson(torch.arange(4.0), 3 - 2 * torch.arange(4.0)) == pytest.approx(-1)
