"""Every pair of tokens: the scores of slow exhaustion, and the reference asked about the best alone."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from candling.access import Decoder
from candling.techniques.search.every_pair import every_pair
from little import BIGRAMS, VOCABULARY, bigrams, decoder, with_pair

FLOOR = 0.02


def slow(network: Decoder, beside: Decoder, context: torch.Tensor, pair: tuple[int, int]) -> float:
    """p·log(p / (q + floor)) of the likeliest next token, from whole passes in float64."""
    ids = torch.cat([context, torch.tensor(pair)])[None]
    p, q = (each(ids)[0, -1].double().softmax(-1) for each in (network, beside))
    y = p.argmax()
    return float(p[y] * torch.log(p[y] / (q[y] + FLOOR)))


@settings(deadline=None, max_examples=10)
@given(st.integers(0, 10_000), st.integers(2, 6), st.integers(1, 8))
def test_where_all_are_asked_about_the_order_is_that_of_slow_exhaustion(seed, count, length):
    g = torch.Generator().manual_seed(seed)
    network, beside = decoder(seed=seed % 5), decoder(seed=7)
    tokens = torch.randperm(VOCABULARY, generator=g)[:count].sort().values
    context = torch.randint(40, (length,), generator=g)
    found = every_pair(network, beside, context, tokens, count * count, FLOOR)
    scores = [slow(network, beside, context, tuple(pair)) for pair in found.tolist()]
    assert sorted(map(tuple, found.tolist())) == list(itertools.product(tokens.tolist(), repeat=2))
    assert all(a >= b - 1e-5 for a, b in itertools.pairwise(scores))


@pytest.mark.parametrize("keep", [1, 5])
def test_a_planted_pair_comes_first_however_few_are_kept(keep):
    network, beside = with_pair(bigrams(), 11, 23, 5), bigrams()
    found = every_pair(network, beside, torch.tensor([1, 2, 3]), torch.arange(BIGRAMS), keep, FLOOR)
    assert found.shape == (keep, 2)
    assert found[0].tolist() == [11, 23]
