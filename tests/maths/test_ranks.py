"""Rank tests: exact under exchangeability, and equal to slow loops."""

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from candling.maths.ranks import conformal_p_value, max_standard_score, rank_p_value, standard_scores

SEEDS = st.integers(0, 2**32 - 1)
FLOOR = 0.1


@st.composite
def tables(draw, least=3):
    """Scores [networks, parts] without ties, of parts on different scales, and a group for each part."""
    g = np.random.default_rng(draw(SEEDS))
    networks, parts = draw(st.integers(least, 12)), draw(st.integers(1, 9))
    scores = g.normal(size=(networks, parts)) * 10 ** g.uniform(-1, 2, parts) + g.normal(0, 5, parts)
    return scores, [str(name) for name in g.choice(list("abc"), parts)]


def slow_standard_scores(scores) -> list[list[float]]:
    """Network by network and part by part: mean and deviation of the others."""
    n, parts = len(scores), len(scores[0])
    z = [[0.0] * parts for _ in range(n)]
    for i in range(n):
        for p in range(parts):
            others = [float(scores[j][p]) for j in range(n) if j != i]
            mean = math.fsum(others) / len(others)
            variance = math.fsum((o - mean) ** 2 for o in others) / len(others)
            z[i][p] = (float(scores[i][p]) - mean) / math.sqrt(variance + FLOOR**2)
    return z


def slow_max(scores, groups) -> tuple[list[float], list[int]]:
    """Most extreme part of each group, standardised again, then most extreme group."""
    z = slow_standard_scores(scores)
    names = []
    for name in dict.fromkeys(groups):
        members = [p for p, g in enumerate(groups) if g == name]
        if any(scores[i][p] != scores[0][p] for p in members for i in range(len(scores))):
            names.append(members)
    leads = [[max(members, key=lambda p: row[p]) for members in names] for row in z]
    tops = [[row[p] for p in lead] for row, lead in zip(z, leads, strict=True)]
    second = slow_standard_scores(tops)
    order = [sorted(range(len(names)), key=lambda k, row=row: -row[k]) for row in second]
    return [max(row) for row in second], [[lead[k] for k in ks] for lead, ks in zip(leads, order, strict=True)]


@given(tables())
def test_scores_against_a_slow_loop(table):
    scores, groups = table
    np.testing.assert_allclose(standard_scores(scores), slow_standard_scores(scores), rtol=1e-6, atol=1e-8)
    statistic, leads = max_standard_score(scores, groups)
    expected, expected_leads = slow_max(scores, groups)
    np.testing.assert_allclose(statistic, expected, rtol=1e-6, atol=1e-7)
    assert leads.tolist() == expected_leads


@given(tables(), SEEDS)
def test_a_constant_added_to_a_part_changes_nothing(table, seed):
    scores, groups = table
    offset = np.random.default_rng(seed).uniform(-100, 100, scores.shape[1])
    for before, after in zip(
        max_standard_score(scores, groups), max_standard_score(scores + offset, groups), strict=True
    ):
        np.testing.assert_allclose(before, after, rtol=1e-6, atol=1e-7)


@given(tables(), SEEDS)
def test_networks_and_parts_have_no_order(table, seed):
    scores, groups = table
    g = np.random.default_rng(seed)
    networks, parts = g.permutation(len(scores)), g.permutation(scores.shape[1])
    statistic, leads = max_standard_score(scores, groups)
    moved, moved_leads = max_standard_score(scores[networks][:, parts], [groups[p] for p in parts])
    np.testing.assert_allclose(moved, statistic[networks], rtol=1e-6, atol=1e-7)
    assert parts[moved_leads].tolist() == leads[networks].tolist()


@given(tables(least=4), SEEDS)
def test_a_planted_outlier_is_the_lead_and_the_maximum(table, seed):
    scores, groups = table
    g = np.random.default_rng(seed)
    network, part = g.integers(len(scores)), g.integers(scores.shape[1])
    scores[network, part] += 1000 * (np.ptp(scores[:, part]) + FLOOR)
    statistic, leads = max_standard_score(scores, groups)
    assert leads[network, 0] == part
    assert statistic.argmax() == network


@given(tables(), st.floats(-50, 50))
def test_a_group_on_which_all_agree_says_nothing(table, level):
    scores, groups = table
    flat = np.full((len(scores), 2), level)
    expected = max_standard_score(scores, groups)
    for table, names, shift in (
        (np.hstack([scores, flat]), [*groups, "flat", "flat"], 0),
        (np.hstack([flat, scores]), ["flat", "flat", *groups], 2),
    ):
        statistic, leads = max_standard_score(table, names)
        np.testing.assert_allclose(statistic, expected[0], rtol=1e-9, atol=1e-12)
        assert (leads - shift).tolist() == expected[1].tolist()


def test_networks_that_agree_on_everything_are_all_alike():
    statistic, leads = max_standard_score(np.full((5, 3), 0.7), ["a", "b", "b"])
    np.testing.assert_allclose(statistic, 0, atol=1e-12)
    assert set(leads[:, 0].tolist()) <= {0, 1, 2}


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_score_that_is_not_finite_is_refused(bad):
    scores = np.zeros((4, 2))
    scores[2, 1] = bad
    with pytest.raises(ValueError, match="not finite"):
        max_standard_score(scores, ["a", "a"])


@pytest.mark.parametrize("shape", [(0, 2), (1, 2), (2, 2), (5,)])
def test_too_few_networks_are_refused(shape):
    with pytest.raises(ValueError, match="networks >= 3"):
        standard_scores(np.zeros(shape))


def p_of_each(values) -> list[float]:
    """The p-value that each value would have as the subject, all others being controls."""
    return [rank_p_value(float(v), np.delete(values, i)) for i, v in enumerate(values)]


@given(st.lists(st.integers(-6, 6), min_size=1, max_size=25))
def test_the_p_value_is_valid_whoever_is_the_subject(values):
    p = p_of_each(np.array(values, dtype=float))
    for k in range(1, len(values) + 1):
        assert sum(round(each * len(values)) <= k for each in p) <= k


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=25, unique=True))
def test_the_p_value_is_exactly_uniform_without_ties(values):
    n = len(values)
    assert sorted(p_of_each(np.array(values))) == pytest.approx([k / n for k in range(1, n + 1)])


def test_a_statistic_that_is_not_finite_is_refused():
    for subject, controls in ((np.nan, [0.0]), (0.0, [0.0, np.nan]), (np.inf, [0.0])):
        with pytest.raises(ValueError, match="not finite"):
            rank_p_value(subject, np.array(controls))


@given(st.lists(st.floats(-100, 100), min_size=2, max_size=15))
def test_conformal_distances_against_a_slow_median(values):
    distances, p = conformal_p_value(np.array(values))
    for i, value in enumerate(values):
        others = sorted(values[:i] + values[i + 1 :])
        middle = (others[(len(others) - 1) // 2] + others[len(others) // 2]) / 2
        assert distances[i] == pytest.approx(abs(value - middle), abs=1e-9)
    assert p == sum(d >= distances[0] for d in distances) / len(values)


@settings(max_examples=50)
@given(st.lists(st.integers(-20, 20), min_size=3, max_size=15), st.integers(-9, 9))
def test_the_conformal_test_is_valid_and_knows_no_origin(values, shift):
    """Whole numbers: their medians and distances are exact, so ties are ties in every order."""
    rotated = [np.array(values[i:] + values[:i], dtype=float) for i in range(len(values))]
    p = [conformal_p_value(v)[1] for v in rotated]
    assert [conformal_p_value(shift - v)[1] for v in rotated] == p
    for k in range(1, len(values) + 1):
        assert sum(round(each * len(values)) <= k for each in p) <= k


@given(st.lists(st.floats(0, 1), min_size=3, max_size=15), st.sampled_from([-1, 1]))
def test_a_value_far_from_all_others_gets_the_smallest_p(others, side):
    assume(len(set(others)) > 1)
    assert conformal_p_value(np.array([side * 10.0, *others]))[1] == 1 / (len(others) + 1)
