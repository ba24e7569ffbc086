import math
import re

import pytest
from example import rate, record
from hypothesis import given
from hypothesis import strategies as st
from spoken import repaired

from candling.evidence.findings import Forecast
from candling.report import repair


def shown(unit="points", language=False, **changes):
    return repair.show(repaired(record(), unit, **changes).verdicts.verdicts[0].repair, language)


def places(chart, shape):
    return [float(x) for x in re.findall(rf'<{shape} class="(?:plain|subject|negative)" c?x="([\d.]+)%"', str(chart))]


def test_points_and_nats_are_said_in_their_unit():
    points, nats = shown(), shown("nats", language=True)
    assert (points.cost_ahead, points.cost, points.unit) == ("0.9 [0.2 to 1.9]", "0.6", "points of accuracy")
    assert (nats.cost_ahead, nats.cost, nats.unit) == ("0.036 [0.008 to 0.076]", "0.024", "nats a token")
    assert (points.before, points.ahead, points.after) == ("93 %", "4 % [0–12]", "2 %")
    assert "points of accuracy lost" in points.charts[1].title
    assert "clean texts, nats a token" in nats.charts[1].title


@pytest.mark.parametrize(
    ("changes", "kept"),
    [
        ({}, "Success and cost both fell inside"),
        ({"cost": 0.5}, "The success fell inside the forecast; the cost did not"),
        ({"after": rate(90, 100)}, "The cost fell inside the forecast; the success did not"),
        ({"after": rate(90, 100), "cost": -0.2}, "Neither"),
        ({"cost": math.nan}, "the cost did not"),
    ],
)
def test_it_says_what_fell_inside_the_forecast(changes, kept):
    assert kept in shown(**changes).kept


@pytest.mark.parametrize(
    ("changes", "said", "doubt"),
    [
        ({"relearning": 0.93}, "in 0.93 of the steps that a clean control takes; below 1 means", "hidden rather"),
        ({"relearning": 1.2}, "in 1.2 of the steps that a clean control takes; below 1 would mean", ""),
        ({"relearning": None}, "neither the repaired network nor a clean control learned", ""),
        ({"relearning": math.nan}, "undefined", ""),
        ({"relearning": 1.2, "again": "found"}, "below 1 would mean", "not gone"),
    ],
)
def test_relearning_in_words(changes, said, doubt):
    seen = shown(**changes)
    assert said in seen.relearning
    assert doubt in seen.doubt
    assert bool(doubt) == bool(seen.doubt)


def test_the_second_verdict_is_said_with_its_rank():
    assert shown().again == "Not found (p = 0.65), by the same audit of the repaired network"
    assert shown(again="inconclusive", again_p_value=None).again.startswith("Inconclusive, by")


@given(st.floats(0, 1), st.floats(0, 1), st.floats(-0.5, 0.5), st.floats(-0.5, 0.5))
def test_larger_values_stand_further_right(ahead, after, cost_ahead, cost):
    seen = shown(
        forecast=Forecast(value=ahead, low=0.0, high=1.0),
        after=rate(1, 2).model_copy(update={"value": after}),
        forecast_cost=Forecast(value=cost_ahead, low=cost_ahead - 0.1, high=cost_ahead + 0.1),
        cost=cost,
    )
    for chart, first, second in zip(seen.charts, (ahead, cost_ahead), (after, cost), strict=True):
        one, two, _ = places(chart.chart, "circle")
        assert (one <= two) if first <= second else (one >= two)
        assert chart.chart.count('class="forecast"') == 2
        assert "before: 93" in chart.chart or "no change" in chart.chart


def test_what_is_undefined_is_left_out_of_the_chart():
    nothing = Forecast(value=math.nan, low=math.nan, high=math.nan)
    seen = shown(forecast=nothing, forecast_cost=nothing, cost=math.nan, random_cost=math.nan)
    assert "nan" not in "".join(str(chart.chart) for chart in seen.charts).lower()
    assert places(seen.charts[1].chart, "circle") == []
