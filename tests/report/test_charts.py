import math
import re

import pytest
from example import record
from hypothesis import given
from hypothesis import strategies as st

from candling.report import charts
from candling.report.charts import Dot, Lane
from candling.report.curve import Planted, curve, height_of
from candling.report.scale import Scale

VALUES = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=30)


@given(VALUES, VALUES, st.floats(-1e6, 1e6), st.floats(-1e6, 1e6))
def test_a_larger_value_is_never_further_left(values, core, a, b):
    scale = Scale.fit(values + core, core)
    low, high = sorted((a, b))
    assert 0 <= scale.at(low) <= scale.at(high) <= 100


@given(VALUES)
def test_different_values_are_apart_and_all_have_room(values):
    scale = Scale.fit(values)
    places = [scale.at(v) for v in sorted(values)]
    assert places == sorted(places)
    assert places[0] > 0
    assert places[-1] < 100
    if max(values) - min(values) > 1e-3:
        assert places[0] < places[-1]


def test_a_far_subject_compresses_the_axis_and_keeps_the_controls_apart():
    controls = [0.1, 0.5, 0.9, 1.2]
    scale = Scale.fit([*controls, 400.0], controls)
    assert scale.compressed
    assert scale.at(1.2) - scale.at(0.1) > 5
    assert not Scale.fit([*controls, 3.0], controls).compressed


@given(VALUES, VALUES)
def test_ticks_are_in_range_in_order_and_never_one_alone(values, core):
    scale = Scale.fit(values + core, core)
    ticks = scale.ticks()
    assert ticks == sorted(ticks)
    assert all(scale.low <= t <= scale.high for t in ticks)
    assert len(ticks) <= 12
    if not scale.compressed:
        assert len(ticks) >= 2


@pytest.mark.parametrize("values", [[], [math.nan], [math.inf, 1.0], [1e308, -1e308], [0.0, 5e-324], [2.0, 2.0]])
def test_scales_of_strange_values(values):
    scale = Scale.fit(values)
    assert scale.low < scale.high
    assert scale.ticks()


@given(st.floats(0, 1), st.floats(0, 1))
def test_bars_and_heights_grow_with_the_share(a, b):
    low, high = sorted((a, b))

    def width(share):
        return float(
            re.search(r'class="subject" x="0%" width="([\d.]+)%"', charts.bar(share, "subject", "")).group(1)
        )

    assert width(low) <= width(high)
    assert height_of(low) >= height_of(high)


def test_a_strip_shows_every_finite_dot_and_thins_a_crowd():
    def drawn(n):
        lane = Lane("clean", "negative", [Dot(float(i), f"n{i}") for i in range(n)] + [Dot(math.nan, "nan")])
        return str(charts.strip([lane], Scale.fit([0, n]), "statistic"))

    assert drawn(20).count("<circle") == 20
    assert drawn(5000).count("<circle") == charts.DRAWN_AT_MOST
    assert "<title>n0</title>" in drawn(5000)
    assert "<title>n4999</title>" in drawn(5000)


@given(st.lists(st.floats(0, 100), max_size=40).map(sorted))
def test_dodging_separates_neighbours_while_rows_last(places):
    rows = charts.dodged(places, 3)
    for i in range(1, len(places)):
        if rows[i] == rows[i - 1] and places[i] - places[i - 1] < 1:
            assert i >= 3
            assert places[i] - places[i - 3] < 2


def test_the_curve_marks_the_plants_where_they_belong():
    planted = [
        Planted(0.2, False, True, 0, "missed"),
        Planted(0.8, True, True, 1, "caught"),
        Planted(0.1, False, False, 2, "failed"),
    ]
    picture = str(curve(record().verdicts.verdicts[0].sensitivity, planted, "by dose"))
    assert picture.count('class="hollow"') == 1
    assert "did not take" in picture
    at = {name: float(y) for y, name in re.findall(r'y="([\d.]+)"><path[^>]*><title>(\w+)</title>', picture)}
    assert at["caught"] < at["missed"] < at["failed"]
    assert "detection limit 0.45" in picture
    assert "dose 0.5: 89\u00a0% [67–99]" in picture


def test_the_curve_draws_without_a_fit_and_without_plants():
    assert "<polyline" not in curve(None, [Planted(0.2, True, True, 0, "x")], "by dose")
    seen = record().verdicts.verdicts[0].sensitivity
    assert "did not take" not in curve(seen, [], "by dose")
    assert "detection limit" not in curve(seen.model_copy(update={"detection_limit": None}), [], "by dose")
