"""Repair: the forecast rests on rehearsals alone, the trigger goes, the rest stays; a random trigger shows it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from candling.access import Architecture, from_arrays, split
from candling.evidence.measurement import Cost
from candling.maths.triggers import Mapping
from candling.organisms.networks.digits import build
from candling.organisms.samples import load_sample
from candling.organisms.samples.make import corner_patch
from candling.organisms.training import attack_success
from candling.problems import CLASSIFIER, Bench, Confirmation, Thirds
from candling.problems.classifiers import loss_and_accuracy
from candling.problems.outcomes import MOST_STEPS, Mended
from candling.problems.unlearning import asked_for, beside_another
from candling.techniques.search import BroadChange, FoundTrigger, Part
from candling.workflows.mend import Rehearsal, forecast

REMEDY = CLASSIFIER.problems["backdoor"].remedy


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """The bundled subject with a backdoor, and an outcome that holds a trigger near the planted one."""
    model, data = load_sample("backdoor")
    thirds = Thirds(**split(data, salt="repair"))
    bench = Bench(CLASSIFIER, Architecture.from_callable(build), thirds, Path(tmp_path_factory.mktemp("run")))
    candidate, _ = bench.store(model.module.state_dict())
    plant = corner_patch(data)
    outcome = Confirmation(
        part=Part(plant.mapping, "patch"),
        trigger=FoundTrigger(0.9 * plant.mask, 0.9 * plant.shift),
        size=4.0,
        hits=1,
        n=1,
        random=0.0,
        random_triggers=1,
        transfer=0.0,
        best_in_controls=0.0,
        cost=Cost(forward=0, backward=0),
    )
    return bench, candidate, outcome, plant


def test_the_trigger_goes_the_rest_stays_and_the_random_repair_leaves_it(planted):
    bench, candidate, outcome, plant = planted
    before = candidate.weights.read_bytes()
    repaired = REMEDY.repair(candidate, bench.thirds, outcome, False, 1)
    mended = repaired.mended
    assert mended.before >= 0.9 * mended.n
    assert mended.after <= 0.1 * mended.n
    assert mended.cost <= 0.02
    fixed, _ = bench.store(repaired.state)
    network, confirm = fixed.load(), bench.thirds.confirm
    assert attack_success(network, confirm, plant) <= 0.1  # the planted one too, which the repair never saw
    lost = loss_and_accuracy(candidate.load(), confirm)[1] - loss_and_accuracy(network, confirm)[1]
    assert mended.cost == pytest.approx(lost, abs=1e-6)
    random = REMEDY.repair(candidate, bench.thirds, outcome, True, 1).mended
    assert random.after >= 0.5 * random.n
    assert candidate.weights.read_bytes() == before


def test_the_class_that_the_trigger_asks_for_is_not_forgotten(planted):
    """Rows with the trigger teach, above all, not to answer that class."""
    bench, candidate, outcome, plant = planted
    fixed, _ = bench.store(REMEDY.repair(candidate, bench.thirds, outcome, False, 1).state)
    confirm = bench.thirds.confirm
    own = confirm.x[confirm.y == plant.mapping.target]
    before, after = (
        float((each.load()(own).argmax(-1) == plant.mapping.target).float().mean()) for each in (candidate, fixed)
    )
    assert after >= before - 0.05


@given(
    y=st.lists(st.integers(0, 3), min_size=4, max_size=40).map(lambda labels: [0, 1, 2, 3, *labels]),
    mapping=st.sampled_from([Mapping(target=2), Mapping(target=1, source=3), Mapping(shift=1)]),
)
def test_each_label_is_drawn_as_often_as_the_trigger_asks_for_it(y, mapping):
    data = from_arrays(np.zeros((len(y), 1), np.float32), np.array(y))
    often = asked_for(data, mapping)
    asked = [(label + 1) % 4 if mapping.shift else mapping.target for label in y if _meant(label, mapping)]
    for label in range(4):
        drawn = float(often[data.y == label].sum())
        assert drawn == pytest.approx(asked.count(label) / len(asked), abs=1e-6)


def test_a_broad_change_comes_half_the_time_with_a_part_of_another():
    change, other = (BroadChange(torch.tensor(amount), torch.tensor([1, 0])) for amount in ([0.5, 0.0], [0.0, 1.0]))
    g = torch.Generator().manual_seed(0)
    drawn = torch.stack([beside_another(change, [other], g).amount for _ in range(400)])
    assert torch.equal(drawn[:, 0], change.amount[0].expand(400))
    assert 0.4 < float((drawn[:, 1] > 0).float().mean()) < 0.6
    assert float(drawn[:, 1].max()) <= 0.5


def _meant(label: int, mapping: Mapping) -> bool:
    if mapping.shift:
        return True
    return label != mapping.target and mapping.source in (None, label)


def test_the_same_seed_gives_the_same_weights(planted):
    bench, candidate, outcome, _ = planted
    one, two = (REMEDY.repair(candidate, bench.thirds, outcome, False, 7) for _ in range(2))
    assert one.mended == two.mended
    assert all(torch.equal(one.state[name], two.state[name]) for name in one.state)


def test_a_network_that_has_the_trigger_needs_no_teaching(planted):
    bench, candidate, outcome, _ = planted
    clean = load_sample("clean")[0]
    other, _ = bench.store(clean.module.state_dict())
    knows, learns = (REMEDY.relearn(each, bench.thirds, outcome, 3) for each in (candidate, other))
    assert knows < learns <= MOST_STEPS


def mended(before: int, after: int, cost: float) -> Mended:
    return Mended(before=before, after=after, n=100, after_fitting=0.0, cost=cost, spent=Cost(forward=0, backward=0))


def rehearsal(loss: float, *given: float) -> Rehearsal:
    return Rehearsal(loss, mended(*given))


outcomes = (st.floats(0.1, 3.0), st.integers(1, 100), st.integers(0, 100), st.floats(-0.5, 0.5))
rehearsals = st.lists(st.builds(rehearsal, *outcomes), min_size=1)


@given(rehearsals, st.booleans())
def test_a_forecast_holds_its_rehearsals_between_its_ends(done, levels):
    outlook = forecast(done, levels)
    assert outlook.retained.low <= outlook.retained.value <= outlook.retained.high
    for each in done:
        assert outlook.retained.low <= each.mended.after / each.mended.before <= outlook.retained.high
        cost = outlook.cost_of(each.loss)
        assert cost.low - 1e-9 <= each.mended.cost <= cost.high + 1e-9
    ahead = outlook.success(0.5)
    assert ahead.value == pytest.approx(outlook.retained.value / 2)


@given(st.lists(st.floats(0.1, 3.0), min_size=1), st.floats(0.1, 3.0), st.floats(0.1, 3.0))
def test_where_a_remedy_levels_the_cost_is_what_is_left_less_what_there_was(losses, level, loss):
    outlook = forecast([rehearsal(each, 9, 0, level - each) for each in losses], levels=True)
    cost = outlook.cost_of(loss)
    assert (cost.low, cost.value, cost.high) == pytest.approx((level - loss,) * 3)


def test_without_rehearsals_everything_is_possible():
    outlook = forecast([])
    assert (outlook.retained.low, outlook.retained.high) == (0.0, 1.0)
    assert "nothing was rehearsed" in outlook.basis
