"""The dose curve: Bayes' rule on a grid, its symmetries, and what more data does to it."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from candling.maths.doses import DoseCurve, fit_dose_curve

DOSES = np.linspace(0, 1, 6)
DATA = st.lists(st.tuples(st.floats(0, 1), st.booleans()), max_size=20)

few = settings(max_examples=15)


def fit(data) -> DoseCurve:
    return fit_dose_curve(np.array([d for d, _ in data]), np.array([c for _, c in data], dtype=bool))


def mean(curve: DoseCurve, doses=DOSES) -> np.ndarray:
    return np.array([curve.at(float(dose))[0] for dose in doses])


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def slow_mean(data, dose: float) -> float:
    """The posterior mean by an independent, coarser grid: Bayes' rule, and the likelier direction, written out."""
    mass = {"falls": 0.0, "level": 0.0, "rises": 0.0}
    rated = dict(mass)
    for level in np.linspace(-8, 8, 81):
        for slope in np.arange(-30, 31) * 0.4:
            weight = math.exp(-((level / 2) ** 2) / 2 - (slope / 4) ** 2 / 2)
            for d, caught in data:
                rate = sigmoid(level + slope * (d - 0.5))
                weight *= rate if caught else 1 - rate
            way = "level" if slope == 0 else "rises" if slope > 0 else "falls"
            mass[way] += weight
            rated[way] += weight * sigmoid(level + slope * (dose - 0.5))
    if math.isclose(mass["rises"], mass["falls"], rel_tol=1e-9):
        return rated["level"] / mass["level"]
    way = max(("rises", "falls"), key=mass.__getitem__)
    # A level curve is the edge of either direction: half a step of the grid belongs to it.
    return (rated[way] + rated["level"]) / (mass[way] + mass["level"])


@pytest.mark.parametrize(
    "data", [[], [(0.3, True)], [(0.1, False), (0.4, True), (0.9, True)], [(0.5, True), (0.5, False)] * 3]
)
def test_against_bayes_rule_on_another_grid(data):
    curve = fit(data)
    for dose in (0.0, 0.35, 1.0):
        assert curve.at(dose)[0] == pytest.approx(slow_mean(data, dose), abs=1.5e-2)


@few
@given(DATA)
def test_a_rate_with_its_interval_around_it(data):
    curve = fit(data)
    assert curve.weight.sum() == pytest.approx(1)
    assert (curve.weight >= 0).all()
    for dose in DOSES:
        value, low, high = curve.at(float(dose))
        assert 0 <= low <= value <= high <= 1


@few
@given(DATA)
def test_missing_instead_of_catching_turns_the_curve_over(data):
    flipped = fit([(d, not c) for d, c in data])
    np.testing.assert_allclose(mean(flipped), 1 - mean(fit(data)), atol=1e-9)


@few
@given(DATA)
def test_counting_doses_from_the_other_end_mirrors_the_curve(data):
    mirrored = fit([(1 - d, c) for d, c in data])
    np.testing.assert_allclose(mean(mirrored), mean(fit(data))[::-1], atol=1e-9)


@few
@given(DATA)
def test_the_curve_is_monotone_whatever_the_data(data):
    steps = np.diff(mean(fit(data), np.linspace(0, 1, 11)))
    assert (steps >= -1e-12).all() or (steps <= 1e-12).all()


@pytest.mark.parametrize("upwards", [True, False])
def test_the_direction_follows_the_data(upwards):
    doses = np.linspace(0, 1, 20)
    curve = fit([(float(d), bool((d > 0.4) == upwards)) for d in doses])
    steps = np.diff(mean(curve, np.linspace(0, 1, 11)))
    assert (steps > 0).all() if upwards else (steps < 0).all()
    low, high = (0, 1) if upwards else (1, 0)
    assert curve.at(low)[0] < 0.2
    assert curve.at(high)[0] > 0.8


def test_all_caught_is_high_and_grows_with_their_number():
    values = []
    for n in (5, 20, 80):
        value, low, _ = fit([(float(d), True) for d in np.linspace(0, 1, n)]).at(0.5)
        values.append((value, low))
    assert values == sorted(values)
    assert values[1][0] > 0.93
    assert values[0][1] < values[2][0]


def test_the_prior_says_nothing():
    for dose in DOSES:
        value, low, high = fit([]).at(float(dose))
        assert value == pytest.approx(0.5)
        assert low < 0.05
        assert high > 0.95


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("enough", [0.2, 0.6, 0.9])
def test_the_limit_is_where_the_curve_reaches_the_rate(seed, enough):
    g = np.random.default_rng(seed)
    doses = np.sort(g.random(15))
    curve = fit_dose_curve(doses, g.random(15) < doses)
    grid = np.linspace(0, 1, 9)
    reached = mean(curve, grid) >= enough
    limit = curve.limit(enough, grid)
    if limit is None:
        assert not reached.any()
    else:
        assert ((grid >= limit[0]) & (grid <= limit[1])).tolist() == reached.tolist()
