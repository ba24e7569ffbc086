import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from candling.evidence.measurement import Rate
from candling.report import numerals


@pytest.mark.parametrize(
    ("value", "digits", "shown"),
    [
        (0.996, 1, "99.6 %"),
        (0.96, 1, "96.0 %"),
        (0.9999, 1, ">99.9 %"),
        (0.9999, 0, ">99 %"),
        (1.0, 1, "100 %"),
        (0.0, 1, "0 %"),
        (0.0001, 1, "<0.1 %"),
        (0.895, 0, "90 %"),
        (-0.001, 0, "≈0 %"),
        (-0.0004, 1, "≈0 %"),
        (-12.843, 1, "−1284.3 %"),
        (math.nan, 1, "undefined"),
    ],
)
def test_percent(value, digits, shown):
    assert numerals.percent(value, digits) == shown


@given(st.floats(0, 1, exclude_min=True, exclude_max=True), st.sampled_from([0, 1]))
def test_only_certainty_is_shown_as_certainty(value, digits):
    assert numerals.percent(value, digits) not in {"0 %", "100 %"}
    assert not numerals.span(0.0, value, digits).endswith("–100]")


def test_intervals_and_counts():
    assert numerals.span(0.669, 0.987) == "[67–99]"
    assert numerals.span(0.979, 1.0, 1) == "[97.9–100]"
    assert numerals.of(Rate(value=17 / 19, low=0.67, high=0.99, n=19)) == "17 of 19"


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_a_count_survives_as_a_proportion(pair):
    hits, n = pair
    assert numerals.count(Rate(value=float(f"{hits / n:.6g}"), low=0, high=1, n=n)) == hits


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (7.3149, "7.31"),
        (-2.0, "−2"),
        (48211904, "48,211,904"),
        (0.00001, "1.00e−05"),
        (math.inf, "∞"),
        (0.0, "0"),
    ],
)
def test_number(value, shown):
    assert numerals.number(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"), [(7.53, "7.5"), (7.0, "7"), (9.97, "10"), (123.4, "123"), (0.314, "0.314")]
)
def test_roughly(value, shown):
    assert numerals.roughly(value) == shown


@pytest.mark.parametrize(("seconds", "shown"), [(4.25, "4.2 s"), (61, "61 s"), (412, "7 min"), (9000, "2.5 h")])
def test_duration(seconds, shown):
    assert numerals.duration(seconds) == shown
