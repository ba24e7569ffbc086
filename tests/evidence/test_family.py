"""Several classes in one run: the p-value over all is exact, fair between them, and costs one class nothing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from candling.evidence.arrays import of_problem, under
from candling.evidence.family import family_p_value, keys
from candling.evidence.judge import Standing

RUN = st.tuples(st.integers(0, 2**32 - 1), st.integers(4, 12), st.integers(1, 4))


def drawn(seed: int, n: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Statistics [classes, n], few values so that ties are seen and one class with heavy tails; leads that passed."""
    g = np.random.default_rng(seed)
    statistics = g.integers(-3, 4, (classes, n)).astype(float)
    statistics[0] = np.exp(2 * statistics[0])
    return statistics, g.random((classes, n)) < 0.3


def p_of(statistics: np.ndarray, passed: np.ndarray, subject: int) -> float:
    """The least p-value over the classes, with one network as the subject."""
    order = [subject, *(i for i in range(statistics.shape[1]) if i != subject)]
    held = [keys(s[order], p[order].tolist()) for s, p in zip(statistics, passed, strict=True)]
    return min(family_p_value(each[0], [other[1:] for other in held]) for each in held)


@settings(max_examples=60)
@given(RUN)
def test_the_p_value_is_valid_whoever_is_the_subject(run):
    statistics, passed = drawn(*run)
    n = statistics.shape[1]
    ranks = [round(p_of(statistics, passed, i) * n) for i in range(n)]
    assert all(sum(rank <= k for rank in ranks) <= k for k in range(1, n + 1))


@settings(max_examples=60)
@given(RUN)
def test_of_one_class_it_is_the_class_s_own(run):
    statistics, passed = drawn(*run)
    own, flags = statistics[0], passed[0]
    p = Standing(float(own[0]), (0,), own[1:]).p_value_after(bool(flags[0]), flags[1:].tolist())
    assert p_of(statistics[:1], passed[:1], 0) == p


@settings(max_examples=60)
@given(RUN)
def test_another_class_never_makes_a_network_more_suspicious_than_its_own_lead(run):
    statistics, passed = drawn(*run)
    held = [keys(s, p.tolist()) for s, p in zip(statistics, passed, strict=True)]
    alone = family_p_value(held[0][0], [held[0][1:]])
    assert family_p_value(held[0][0], [each[1:] for each in held]) >= alone


def test_a_first_rank_far_ahead_stands_before_first_ranks_by_a_hair():
    """Ten networks, two classes; each class has a first. The one far ahead is the only one at 1/10."""
    g = np.random.default_rng(0)
    statistics, passed = g.normal(size=(2, 10)), np.zeros((2, 10), dtype=bool)
    statistics[0, 3], statistics[1, 7] = 30.0, 3.1
    assert p_of(statistics, passed, 3) == pytest.approx(0.1)
    assert p_of(statistics, passed, 7) == pytest.approx(0.2)
    passed[1, 7] = True  # but a lead that was confirmed ranks before one that was refuted
    assert p_of(statistics, passed, 7) == pytest.approx(0.1)


def test_units_of_one_class_do_not_matter():
    statistics, passed = np.random.default_rng(1).normal(size=(3, 9)), np.zeros((3, 9), dtype=bool)
    statistics *= 50  # the floor of a standard score is then of no account
    scaled = statistics.copy()
    scaled[1] *= 1000
    assert [p_of(statistics, passed, i) for i in range(9)] == [p_of(scaled, passed, i) for i in range(9)]


def test_arrays_come_back_under_the_name_that_they_had():
    problems = ["backdoor", "evaluation"]
    own = {"backdoor": {"lead": 1, "trigger.mask": 2}, "evaluation": {"lead": 3}}
    record = {name: v for p in problems for name, v in under(p, problems, own[p]).items()}
    assert record == {"lead": 1, "trigger.mask": 2, "evaluation/lead": 3}
    assert {p: of_problem(p, problems, record) for p in problems} == own
    assert of_problem("backdoor", ["backdoor"], {"lead": 1}) == {"lead": 1}
