"""Intervals, against the definitions that they come from."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from candling.maths.intervals import clopper_pearson, hanley_mcneil, newcombe_difference

COUNTS = st.integers(1, 80).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))
Z = 1.959963984540054


def at_least(k: int, n: int, p: float) -> float:
    """P(X >= k) for X binomial, summed term by term."""
    return math.fsum(math.comb(n, j) * p**j * (1 - p) ** (n - j) for j in range(k, n + 1))


@given(COUNTS, st.sampled_from([0.5, 0.9, 0.95, 0.99]))
def test_each_end_leaves_exactly_half_of_the_error_in_its_tail(case, confidence):
    k, n = case
    low, high = clopper_pearson(k, n, confidence)
    tail = (1 - confidence) / 2
    assert (low == 0) if k == 0 else at_least(k, n, low) == pytest.approx(tail, rel=1e-6)
    assert (high == 1) if k == n else 1 - at_least(k + 1, n, high) == pytest.approx(tail, rel=1e-6)


@given(st.integers(1, 25), st.floats(0, 1))
def test_the_interval_covers_the_truth_at_least_as_often_as_it_says(n, p):
    covered = [k for k in range(n + 1) if clopper_pearson(k, n)[0] <= p <= clopper_pearson(k, n)[1]]
    assert math.fsum(math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in covered) >= 0.95 - 1e-9


@given(COUNTS)
def test_counting_failures_mirrors_the_interval(case):
    k, n = case
    low, high = clopper_pearson(k, n)
    assert low <= k / n <= high
    assert clopper_pearson(n - k, n) == pytest.approx((1 - high, 1 - low), abs=1e-12)


def test_no_tries_say_nothing():
    assert clopper_pearson(0, 0) == (0, 1)


@pytest.mark.parametrize(("k", "n"), [(-1, 3), (4, 3), (1, 0)])
def test_impossible_counts_are_refused(k, n):
    with pytest.raises(ValueError, match=f"{k} successes of {n} tries"):
        clopper_pearson(k, n)


def wilson_by_roots(k: int, n: int) -> tuple[float, float]:
    """The two proportions from which k/n lies z standard errors away: roots of (p − θ)² = z² θ(1 − θ)/n."""
    p, s = k / n, Z * Z / n
    low, high = sorted(np.roots([1 + s, -(2 * p + s), p * p]).real)
    return low, high


@given(COUNTS, COUNTS)
def test_newcombe_against_the_quadratic(first, second):
    (l1, u1), (l2, u2) = wilson_by_roots(*first), wilson_by_roots(*second)
    p1, p2 = first[0] / first[1], second[0] / second[1]
    low, high = newcombe_difference(*first, *second)
    assert low == pytest.approx(p1 - p2 - math.hypot(p1 - l1, u2 - p2), abs=1e-6)
    assert high == pytest.approx(p1 - p2 + math.hypot(u1 - p1, p2 - l2), abs=1e-6)
    assert -1 - 1e-12 <= low <= p1 - p2 <= high <= 1 + 1e-12
    assert newcombe_difference(*second, *first) == pytest.approx((-high, -low))


@pytest.mark.parametrize(
    ("counts", "interval"),
    [((56, 70, 48, 80), (0.0524, 0.3339)), ((9, 10, 3, 10), (0.1705, 0.8090))],
)
def test_newcombe_gives_the_published_intervals(counts, interval):
    """Newcombe 1998, table II, method 10."""
    assert newcombe_difference(*counts) == pytest.approx(interval, abs=6e-5)


@given(st.floats(0.01, 0.99), st.integers(1, 80), st.integers(1, 80))
def test_the_error_of_an_area_is_that_of_its_mirror_image(area, m, n):
    """Positives below negatives are negatives above positives."""
    assert hanley_mcneil(area, m, n) == pytest.approx(hanley_mcneil(1 - area, n, m))


def test_hanley_and_mcneil_give_the_error_of_their_example():
    """51 abnormal and 58 normal images, area 0.893: 0.032."""
    assert hanley_mcneil(0.893, 51, 58) == pytest.approx(0.032, abs=6e-4)
