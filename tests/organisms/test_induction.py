"""Induction by hand computes what it says through the edges that it says, and a small transformer learns it."""

import pytest
import torch
from edgewise import doubled, exact_edges, run
from hypothesis import given, settings
from hypothesis import strategies as st

from candling.access.dissect import dissect
from candling.access.graph import graph_of
from candling.errors import InputError
from candling.organisms.networks.induction import (
    CHANGES,
    LENGTH,
    PERIODS,
    TOKENS,
    induction,
    predictable,
    repeat_accuracy,
    repeat_pairs,
    repeated,
    train_induction,
)

SHARPNESS = [2.0, 8.0, 40.0]
STEPS = 400


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def names(mask: torch.Tensor, anatomy) -> set[tuple[str, str]]:
    graph = graph_of(anatomy)
    return {(str(graph.senders[s]), str(graph.receivers[r])) for s, r in torch.nonzero(mask).tolist()}


@pytest.mark.parametrize("sharpness", SHARPNESS)
def test_it_computes_induction_on_both_prompts(sharpness: float) -> None:
    net = induction(sharpness)
    pairs = net.pairs(300, rng())
    for tokens, expected in ((pairs.clean, pairs.answer), (pairs.corrupt, pairs.wrong)):
        said = net.anatomy(tokens)[:, -1].argmax(-1)
        assert (said == expected).float().mean() >= 0.99


@given(st.integers(0, 2**31))
@settings(max_examples=20)
def test_the_prompts_are_induction_by_their_tokens_alone(seed: int) -> None:
    pairs = induction().pairs(8, rng(seed))
    for tokens, expected in ((pairs.clean, pairs.answer), (pairs.corrupt, pairs.wrong)):
        for row, answer in zip(tokens.tolist(), expected.tolist(), strict=True):
            assert row.count(row[-1]) == 2
            assert row[row.index(row[-1]) + 1] == answer
            assert len(set(row)) == LENGTH - 1
            assert max(row) < TOKENS


@pytest.mark.parametrize("sharpness", SHARPNESS)
def test_exact_patching_marks_the_identifiable_edges_and_no_other(sharpness: float) -> None:
    """81 edges, 7 true, of which the two positional ones never vary. Decoys are noisy, yet far below."""
    net = induction(sharpness, seed=3)
    pairs = net.pairs(12, rng())
    there, shown = graph_of(net.anatomy).edges, net.identifiable(pairs)
    assert (int(there.sum()), int(net.truth.sum()), int(shown.sum())) == (81, 7, 5)
    assert names(net.truth & ~shown, net.anatomy) == {
        ("embed", "blocks.0.attn.head_q_in.1"),
        ("embed", "blocks.0.attn.head_k_in.1"),
    }
    effects = exact_edges(net.anatomy, pairs)
    assert (effects[shown] < 0).all()
    decoys = effects[there & ~net.truth].abs()
    assert effects[shown].abs().min() > 20 * decoys.max()
    assert (decoys > 0).float().mean() > 0.5  # the others lie in saturated patterns


def test_without_noise_decoys_carry_nothing() -> None:
    net = induction(8.0, noise=0)
    effects = exact_edges(net.anatomy, net.pairs(6, rng()))
    there, shown = graph_of(net.anatomy).edges, net.identifiable(net.pairs(6, rng()))
    assert effects[there & ~shown].abs().max() < 1e-12
    assert effects[shown].abs().min() > 1


@pytest.mark.parametrize(
    ("changed", "inputs"),
    [
        (("first",), {"blocks.0.attn.head_v_in.1", "blocks.1.attn.head_k_in.2"}),
        (("answer",), {"blocks.1.attn.head_v_in.2"}),
        (("last",), {"blocks.1.attn.head_q_in.2"}),
    ],
)
def test_what_a_counterfactual_leaves_alone_it_cannot_show(changed: tuple[str, ...], inputs: set[str]) -> None:
    """By the tokens alone, and by exact patching: what is not identifiable does nothing, what is does something."""
    net = induction(40.0, noise=0, changed=changed)
    pairs = net.pairs(6, rng())
    shown = net.identifiable(pairs)
    assert {receiver for _, receiver in names(shown, net.anatomy)} == inputs | {"logits"}
    effects = exact_edges(net.anatomy, pairs)
    there = graph_of(net.anatomy).edges
    assert effects[there & ~shown].abs().max() < 1e-6 < 1 < effects[shown].abs().min()


def test_both_directions_find_the_same_edges() -> None:
    net = induction(40.0, noise=0)
    pairs = net.pairs(6, rng())
    shown = net.identifiable(pairs, denoising=True)
    effects = exact_edges(net.anatomy, pairs, denoising=True)
    there = graph_of(net.anatomy).edges
    assert torch.equal((effects.nan_to_num(0.0).abs() > 1) & there, shown)
    assert torch.equal(shown, net.identifiable(pairs))


def test_a_broken_prompt_has_no_answer_and_shows_the_same_edges() -> None:
    net = induction(40.0, noise=0, broken=True)
    pairs = net.pairs(6, rng())
    assert all(row.count(row[-1]) == 1 for row in pairs.corrupt.tolist())
    effects, shown = exact_edges(net.anatomy, pairs), net.identifiable(pairs)
    assert torch.equal(effects.nan_to_num(0.0) < -1, shown)
    assert torch.equal(shown, induction().identifiable(induction().pairs(6, rng())))


def test_the_slow_run_is_the_network() -> None:
    net = induction(8.0)
    tokens = net.pairs(4, rng()).clean
    torch.testing.assert_close(run(doubled(net.anatomy), tokens, {})[0], doubled(net.anatomy)(tokens))


def test_a_seed_is_one_network_and_another_seed_another() -> None:
    assert torch.equal(induction(seed=1).anatomy.embedding, induction(seed=1).anatomy.embedding)
    assert not torch.equal(induction(seed=1).anatomy.embedding, induction(seed=2).anatomy.embedding)


@pytest.mark.parametrize("changed", [(), ("first", "second")])
def test_what_cannot_be_changed_is_refused(changed: tuple[str, ...]) -> None:
    with pytest.raises(InputError, match=", ".join(CHANGES)):
        induction(changed=changed)


@given(st.integers(0, 2**31))
@settings(max_examples=20)
def test_repeated_rows_repeat_and_pairs_end_where_one_token_follows(seed: int) -> None:
    tokens, periods = repeated(6, rng(seed))
    for row, period in zip(tokens.tolist(), periods.tolist(), strict=True):
        assert PERIODS[0] <= period <= PERIODS[1]
        assert len(set(row[:period])) == period
        assert all(row[i] == row[i - period] for i in range(period, len(row)))
    chosen = predictable(tokens, periods)
    assert torch.equal(chosen.sum(1), tokens.shape[1] - 1 - periods)
    pairs = repeat_pairs(6, rng(seed))
    for prompts, expected in ((pairs.clean, pairs.answer), (pairs.corrupt, pairs.wrong)):
        for row, last, answer in zip(prompts.tolist(), pairs.last.tolist(), expected.tolist(), strict=True):
            earlier = row[:last]
            assert earlier.count(row[last]) == 1
            assert earlier[earlier.index(row[last]) + 1] == answer


def test_a_small_transformer_learns_it() -> None:
    before = torch.random.get_rng_state()
    decoder = train_induction(0, steps=STEPS)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert repeat_accuracy(decoder, *repeated(200, rng(5))) >= 0.95
    pairs = repeat_pairs(100, rng(6))
    rows, anatomy = torch.arange(100), dissect(decoder).anatomy
    for tokens, expected in ((pairs.clean, pairs.answer), (pairs.corrupt, pairs.wrong)):
        assert (anatomy(tokens)[rows, pairs.last].argmax(-1) == expected).float().mean() >= 0.9


def test_an_untrained_one_knows_nothing() -> None:
    untrained = train_induction(0, steps=0, width=32)
    assert repeat_accuracy(untrained, *repeated(200, rng(5))) < 0.2
    assert torch.equal(train_induction(1, steps=2).embedding, train_induction(1, steps=2).embedding)
