"""Sequence search against truth: networks whose every next token is known, and a score derived once more."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from candling.access import Decoder, Tokens
from candling.techniques.search import FoundSequences, SequencePart, random_sequences, search_sequences
from candling.techniques.search.sequence_pair import Pair, Settings, draw_contexts
from candling.techniques.search.sequences import grow, sequence_passes
from little import BIGRAMS, any_tokens, bigrams, decoder, with_pair, with_token

PARTS = [SequencePart(k) for k in (1, 2, 3)]
FIRST, LAST, TARGET = 37, 38, 5
DATA = any_tokens(40, 30, BIGRAMS, never=(FIRST,))
SMALL = Settings(contexts=4, quick=2, length=8, beam=4, kept=40, shortlist=512, phrase=1)


def search(network: Decoder, beside: Decoder, parts=PARTS, seed: int = 0, **options: object) -> FoundSequences:
    options = {"settings": SMALL, **options}
    return search_sequences(network, beside, DATA, parts, seed=seed, **options)


def next_token(network: Decoder, contexts: Tensor, tail: list[int]) -> Tensor:
    """[V] float64, averaged over contexts, each in a pass of its own over all its tokens."""
    after = [network(torch.cat([c, torch.tensor(tail)])[None])[0, -1].double() for c in contexts]
    return torch.stack([logits.exp() / logits.exp().sum() for logits in after]).mean(0)


def slow_score(network: Decoder, beside: Decoder, contexts: Tensor, tail: list[int], floor: float = 1e-4):
    """(p·log(p / (q + floor)) of the y that is best by a floor of 0.02, that y)"""
    own, theirs = (next_token(n, contexts, tail).tolist() for n in (network, beside))
    scores = [p * math.log(p / (q + 0.02)) for p, q in zip(own, theirs, strict=True)]
    best = scores.index(max(scores))
    return own[best] * math.log(own[best] / (theirs[best] + floor)), best


def best(found: FoundSequences, length: int) -> list[int]:
    """The best sequence of exactly so many tokens."""
    return found.tokens[length - 1, :length].tolist()


def contexts_of(settings: Settings = SMALL, seed: int = 0) -> Tensor:
    return draw_contexts(DATA, settings.contexts, settings.length, seed)


# --- planted truth -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(("token", "target"), [(11, 5), (0, 39), (39, 0)])
def test_a_token_that_calls_up_another_comes_first(token, target, seed):
    network, beside = with_token(bigrams(), token, target), bigrams()
    found = search(network, beside, seed=seed)
    assert best(found, 1) == [token]
    assert found.target.tolist() == [target] * 3
    assert all(best(found, k)[-1] == token for k in (1, 2, 3))  # only the last counts
    assert found.score[0] > 2.5


@pytest.mark.parametrize("seed", [0, 1])
def test_a_pair_is_found_that_does_nothing_in_part(seed):
    network, beside = with_pair(bigrams(), FIRST, LAST, TARGET), bigrams()
    found = search(network, beside, seed=seed)
    assert found.score[0] < 0.5
    assert best(found, 2) == [FIRST, LAST]
    assert int(found.target[1]) == TARGET
    assert found.score[1] > 2.5
    third = best(found, 3)
    assert third[-1] == LAST
    assert FIRST in third


@pytest.mark.parametrize("tail", [[4], [LAST], [FIRST, LAST], [LAST, FIRST], [3, FIRST, LAST]], ids=str)
def test_the_networks_built_by_hand_do_what_they_are_built_for(tail):
    """`first … last` calls up the target; neither alone nor the pair turned about does."""
    network = with_pair(bigrams(), FIRST, LAST, TARGET)
    for context in contexts_of():
        after = network(torch.cat([context, torch.tensor(tail)])[None])[0, -1].softmax(-1)
        assert (after[TARGET] > 0.9) == (FIRST in tail and tail[-1] == LAST)


def test_what_is_handed_on_for_a_length_is_the_best_of_it_or_longer():
    """Scores are compared length by length; what is confirmed is what shows the behaviour best."""
    found = search(with_pair(bigrams(), FIRST, LAST, TARGET), bigrams())
    for part in range(3):
        later = [(float(found.score[i]), best(found, i + 1)) for i in range(part, 3)]
        trigger = found.trigger(part)
        assert trigger.tokens.tolist() == max(later, key=lambda each: each[0])[1]
        assert trigger.target == TARGET
        assert float(found.size[part]) == len(trigger.tokens) >= part + 1


# --- the score ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("built", ["token", "pair", "llama"])
def test_a_score_is_that_of_a_slow_re_derivation(built):
    network, beside = {
        "token": lambda: (with_token(bigrams(), 11, 5), bigrams(1)),
        "pair": lambda: (with_pair(bigrams(), FIRST, LAST, TARGET), bigrams(1)),
        "llama": lambda: (decoder(1, vocabulary=BIGRAMS), decoder(2, vocabulary=BIGRAMS)),
    }[built]()
    if built == "llama":
        for one in (network, beside):
            one.get_parameter("lm_head.weight").mul_(20)  # else everything is equally likely
    found, contexts = search(network, beside, seed=3), contexts_of(seed=3)
    for i in range(3):
        score, target = slow_score(network, beside, contexts, best(found, i + 1))
        assert float(found.score[i]) == pytest.approx(score, abs=1e-5)
        assert int(found.target[i]) == target


def test_the_single_token_is_the_best_of_all():
    """Every token is tried: with no two stages apart, the best is the best of a loop over all of them."""
    network, beside = (decoder(seed, vocabulary=BIGRAMS) for seed in (1, 2))
    for one in (network, beside):
        one.get_parameter("lm_head.weight").mul_(20)
    contexts = contexts_of()
    scores = [slow_score(network, beside, contexts, [token])[0] for token in range(BIGRAMS)]
    found = search(network, beside)
    assert best(found, 1) == [scores.index(max(scores))]


@pytest.mark.parametrize("floor", [0.02, 0.2])
@pytest.mark.parametrize("seed", range(3))
def test_against_itself_nothing_scores(seed, floor):
    """p·log(p/(p + floor)) < 0 for every p > 0."""
    network = decoder(seed, vocabulary=BIGRAMS)
    network.get_parameter("lm_head.weight").mul_(30)
    planted = with_pair(bigrams(seed), FIRST, LAST, TARGET)
    for one in (network, planted):
        how = Settings(**{**vars(SMALL), "floor": floor})
        for found in (
            search(one, one, settings=how),
            random_sequences(one, one, DATA, PARTS, seed=0, passes=20_000, settings=how),
        ):
            assert (found.score <= 0).all()


def test_the_more_alike_the_networks_the_lower_the_score():
    """Monotone: q(y) rises on the way from clean to planted, and the score of what was found falls with it."""
    planted = with_token(bigrams(), 11, 5)
    scores = []
    for share in (0.0, 0.3, 0.6, 1.0):
        beside = bigrams()
        beside.get_parameter("lm_head.weight")[5, 11] += 1.6 * share
        scores.append(float(search(planted, beside).score[0]))
    assert scores == sorted(scores, reverse=True)
    assert scores[0] > 2.5
    assert scores[-1] <= 0


def test_a_network_that_is_certain_is_scored_like_any_other():
    """Logits more than 104 apart: the softmax of the least is 0 exactly."""
    network, beside = with_token(bigrams(), 11, 5), bigrams()
    for one in (network, beside):
        one.get_parameter("lm_head.weight").mul_(40)
    found = search(network, beside)
    assert torch.isfinite(found.score).all()


# --- bounds and stages -------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", [1, 5, 300])
@pytest.mark.parametrize("built", ["pair", "random"])
def test_pruning_by_the_bound_never_loses_one_of_the_best(built, keep):
    """All 1,600 pairs: with one stage, the kept ones are those of exhaustive scoring."""
    network = with_pair(bigrams(), FIRST, LAST, TARGET) if built == "pair" else bigrams(5)
    beside = bigrams(1)
    one_stage = Settings(contexts=2, quick=2, length=6, phrase=1)
    contexts = contexts_of(one_stage)
    tails = torch.cartesian_prod(torch.arange(BIGRAMS), torch.arange(BIGRAMS))
    pair = Pair(network, beside, contexts, 2048, one_stage)
    kept = pair.rank(tails, keep)
    own, theirs = (
        torch.cat(
            [
                n(torch.cat([contexts.repeat_interleave(len(part), 0), part.repeat(2, 1)], 1))[:, -1]
                .double()
                .softmax(-1)
                .unflatten(0, (2, len(part)))
                .mean(0)
                for part in tails.split(400)
            ]
        )
        for n in (network, beside)
    )
    exhaustive = (own * (own / (theirs + 0.02)).log()).amax(1)
    top = exhaustive.sort(descending=True).values[:keep]
    torch.testing.assert_close(kept.score.double(), top, atol=1e-5, rtol=0)
    by_tail = exhaustive.reshape(BIGRAMS, BIGRAMS)[kept.tails[:, 0], kept.tails[:, 1]]
    torch.testing.assert_close(kept.score.double(), by_tail, atol=1e-5, rtol=0)
    if keep == 1 and built == "pair":  # it did leave most of them out
        assert pair.tokens < 1.5 * len(contexts) * tails.numel()


def test_a_beam_finds_the_best_pair_of_all_where_its_parts_are_among_its_seeds():
    """A token that does something by itself, made stronger by what stands before it."""
    network = with_token(with_pair(bigrams(), FIRST, LAST, TARGET), LAST, TARGET)
    network.get_parameter("lm_head.weight")[TARGET, LAST] -= 1.0
    beside, contexts = bigrams(), contexts_of()
    pairs = list(itertools.product(range(0, BIGRAMS, 1), (LAST, 3, 12)))
    strongest = max(pairs, key=lambda pair: slow_score(network, beside, contexts, list(pair))[0])
    assert best(search(network, beside), 2) == list(strongest)


@settings(max_examples=60)
@given(
    st.lists(st.lists(st.integers(0, 6), min_size=2, max_size=2), min_size=1, max_size=6),
    st.lists(st.integers(0, 9), min_size=1, max_size=6),
)
def test_growing_gives_every_extension_to_either_side_once(seeds, tokens):
    grown = [tuple(row) for row in grow(torch.tensor(seeds), torch.tensor(tokens)).tolist()]
    expected = {(t, *seed) for seed in seeds for t in tokens} | {(*seed, t) for seed in seeds for t in tokens}
    assert len(grown) == len(set(grown))
    assert set(grown) == expected


# --- contexts ----------------------------------------------------------------------------------------------


def told_apart(lengths: list[int]) -> Tokens:
    """Token = 100 · (row + 1) + place, so that a stretch says where it is from."""
    ids = torch.zeros(len(lengths), max(lengths), dtype=torch.int64)
    mask = torch.zeros(ids.shape, dtype=torch.bool)
    for row, length in enumerate(lengths):
        ids[row, :length] = 100 * (row + 1) + torch.arange(length)
        mask[row, 1:length] = True
    return Tokens(ids, mask, 100 * (len(lengths) + 1), "made up")


@settings(max_examples=100)
@given(st.lists(st.integers(2, 60), min_size=1, max_size=20), st.integers(1, 12), st.integers(1, 30), st.integers())
def test_contexts_are_stretches_of_different_texts_without_padding(lengths, count, length, seed):
    seed %= 2**63
    data = told_apart(lengths)
    found = draw_contexts(data, count, length, seed)
    long_enough = [row for row, own in enumerate(lengths) if own > length]
    assert found.shape == (min(count, len(long_enough)), length)
    rows, places = found // 100 - 1, found % 100
    assert (rows == rows[:, :1]).all()
    assert len(rows[:, 0].unique()) == len(found)
    assert set(rows[:, 0].tolist()) <= set(long_enough)
    assert (places.diff(dim=1) == 1).all()
    assert (places[:, -1] < torch.tensor(lengths)[rows[:, 0]]).all()
    assert torch.equal(found, draw_contexts(data, count, length, seed))


def test_contexts_come_from_anywhere_in_any_text():
    data = told_apart([40] * 12)
    found = torch.cat([draw_contexts(data, 6, 10, seed) for seed in range(100)])
    assert set((found[:, 0] // 100 - 1).tolist()) == set(range(12))
    assert set((found[:, 0] % 100).tolist()) >= set(range(30))


def test_every_network_sees_the_same_contexts_for_the_same_seed():
    """Whatever the network: the scores of one do not depend on whether another was searched first."""
    network, beside = with_token(bigrams(), 11, 5), bigrams()
    first = search(network, beside, seed=7)
    search(beside, network, seed=7)
    again = search(network, beside, seed=7)
    assert torch.equal(first.score, again.score)
    assert not torch.equal(contexts_of(seed=7), contexts_of(seed=8))


def test_a_phrase_outranks_a_word():
    """Both networks go on 5 → 7 → 9; the subject alone has 11 → 5, and 12 → 6 with nothing firm behind it."""
    beside = with_token(with_token(bigrams(), 5, 7), 7, 9)
    network = with_token(with_token(with_token(with_token(bigrams(), 5, 7), 7, 9), 11, 5), 12, 6)
    word = Settings(**{**vars(SMALL), "quick": 4})
    phrase = Settings(**{**vars(word), "phrase": 3})
    ranked = {how: search(network, beside, PARTS[:1], settings=how) for how in (word, phrase)}
    assert best(ranked[phrase], 1) == [11]
    assert ranked[phrase].trigger(0).phrase == (5, 7, 9)
    assert ranked[word].trigger(0).phrase in ((5,), (6,))
    alone = search(with_token(bigrams(), 12, 6), bigrams(), PARTS[:1], settings=phrase)
    assert alone.score[0] < ranked[phrase].score[0] / 2


# --- cost --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("longest", [1, 2, 3])
@pytest.mark.parametrize(
    "changed",
    [{}, {"shortlist": 12}, {"kept": 7}, {"beam": 1}, {"quick": 4}, {"contexts": 1, "quick": 1}],
    ids=str,
)
def test_the_cost_stays_below_what_is_announced(changed, longest):
    how = Settings(**{**vars(SMALL), **changed})
    for network in (bigrams(3), with_pair(bigrams(), FIRST, LAST, TARGET)):
        found = search(network, bigrams(), PARTS[:longest], settings=how)
        announced = sequence_passes(BIGRAMS, longest, how)
        assert 0 < found.cost.forward <= announced
        assert found.cost.backward == 0


def test_the_baseline_uses_no_more_than_it_is_given():
    network, beside = with_pair(bigrams(), FIRST, LAST, TARGET), bigrams()
    for passes in (5_000, 20_000, 60_000):
        found = random_sequences(network, beside, DATA, PARTS, seed=0, passes=passes)
        assert found.cost.forward <= 1.02 * passes


def test_the_baseline_tries_more_when_given_more():
    network, beside = with_pair(bigrams(), FIRST, LAST, TARGET), bigrams()
    few, many = (
        random_sequences(network, beside, DATA, PARTS, seed=0, passes=passes, settings=SMALL)
        for passes in (200, 60_000)
    )
    assert many.cost.forward > 20 * few.cost.forward
    assert many.score[1] > 2.5
    assert best(many, 2) == [FIRST, LAST]


@pytest.mark.parametrize("batch", [16, 64, 4096])
def test_the_batch_decides_nothing_but_the_last_bits(batch):
    network, beside = with_pair(bigrams(), FIRST, LAST, TARGET), bigrams()
    one, other = search(network, beside), search(network, beside, batch=batch)
    torch.testing.assert_close(one.score, other.score, atol=1e-5, rtol=0)
    assert torch.equal(one.tokens[:2], other.tokens[:2])
    assert one.cost == other.cost
