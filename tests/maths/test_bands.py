"""The best band and the best staircase, against every band and every staircase."""

from itertools import combinations, pairwise, product

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from candling.maths.bands import best_bands, data_bits, staircase

scored = st.lists(st.tuples(st.integers(-4, 4), st.integers(-3, 3)), min_size=1, max_size=9)


@given(scored)
def test_no_band_gains_more_and_no_tie_is_cut(rows):
    scores, gains = (np.array(column, dtype=float) for column in zip(*rows, strict=True))
    found = best_bands(scores[None], gains)
    inside = (scores >= found.low[0]) & (scores < found.high[0])
    assert gains[inside].sum() == found.gain[0]
    for value in scores:
        assert len(set(inside[scores == value])) == 1
    values = sorted(set(scores))
    every = [gains[(scores >= low) & (scores <= high)].sum() for low in values for high in values if low <= high]
    assert found.gain[0] == max(0.0, *every)


@settings(max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 2)), min_size=2, max_size=12), st.floats(0.1, 3))
def test_no_staircase_costs_less(rows, piece):
    values, answers = (np.array(column) for column in zip(*rows, strict=True))
    cuts, said = staircase(values, answers, 3, piece=piece, error=1.0)

    def cost(cuts, said):
        given = np.array(said)[np.searchsorted(cuts, values, side="right")]
        return piece * len(said) + (given != answers).sum()

    different = sorted(set(values.tolist()))
    places = [(low + high) / 2 for low, high in pairwise(different)]
    best = min(
        cost(list(chosen), answer)
        for count in range(len(places) + 1)
        for chosen in combinations(places, count)
        for answer in product(range(3), repeat=count + 1)
    )
    assert abs(cost(cuts, said) - best) < 1e-9
    assert all(a != b for a, b in pairwise(said))


def test_bits_grow_with_errors_up_to_half():
    bits = data_bits(np.arange(0, 500), 1000, 2)
    assert (np.diff(bits) > 0).all()
    assert bits[0] < 11
