"""Tampering: an act built in by hand is found, confirmed, told apart and mended; clean networks' own acts are not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from candling.access import Architecture, split
from candling.organisms.foretelling import foretell, works_on
from candling.organisms.plants.tampering import FORMS, REACHES, draw_tampering
from candling.organisms.training import draw_recipe
from candling.problems import SENSORS, Bench, Rival, Thirds
from candling.problems.fakes import told_apart
from candling.problems.sensors import shortage
from candling.problems.tampering import TAMPERING, lead
from candling.problems.together import load_beside
from candling.runs.seeds import reproducible
from candling.techniques.search.acts import all_no, foretold
from tampered import Foretells, cases, honest


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    """A network that heeds the act and three clean ones, searched and confirmed."""
    thirds = Thirds(**split(cases(), salt="tampering"))
    bench = Bench(SENSORS, Architecture.from_callable(honest), thirds, Path(tmp_path_factory.mktemp("run")))
    beside = {f"{i}.{k}": v for i, by in enumerate((0.9, 1.1)) for k, v in Foretells(scale=by).state_dict().items()}
    bench = Bench(SENSORS, bench.architecture, thirds, bench.folder, beside=bench.store(beside)[0].weights)
    networks = [Foretells(heeds=60.0), *(Foretells(scale=by) for by in (1.0, 1.3))]
    candidates = [bench.store(network.state_dict())[0] for network in networks]
    parts = TAMPERING.parts(thirds.search)
    found = [TAMPERING.detect(candidate, thirds.search, parts, 1) for candidate in candidates]
    outcomes = []
    for i, candidate in enumerate(candidates):
        rivals = [
            Rival(candidates[k], found[k].found.trigger(0), float(found[k].found.size[0])) for k in (1, 2) if k != i
        ]
        start = found[i].found.trigger(0)
        outcomes.append(TAMPERING.confirm(candidate, thirds, parts[0], start, rivals, 2))
    return bench, candidates, found, outcomes


def test_the_act_is_found_and_clean_networks_have_none(seen):
    _, _, found, (planted, *others) = seen
    scores = [float(each.found.score[0]) for each in found]
    assert scores[0] > max(scores[1:]) + 0.5
    assert planted.success > 0.9
    assert max(planted.transfer, planted.best_in_controls) < 0.1
    assert TAMPERING.passes(planted, 0.0)
    assert not any(TAMPERING.passes(outcome, 0.0) for outcome in others)
    shift = lead(planted).shift
    assert shift[1:3].min() > 2 * shift[[0, 3, 4, 5]].abs().max()


def test_what_stands_beside_is_the_mean_of_its_networks(seen):
    bench, candidates, _, _ = seen
    x = bench.thirds.search.x
    expected = (Foretells(scale=0.9)(x) + Foretells(scale=1.1)(x)) / 2
    torch.testing.assert_close(load_beside(candidates[0])(x), expected)


def test_inside_fake_and_real_are_told_apart_where_the_outcome_is_held(seen):
    bench, (planted, *_), _, (outcome, *_) = seen
    said = told_apart(planted, bench.thirds, lead(outcome))
    assert said.sensors == 3
    assert said.accuracy > 0.95
    assert said.reached == pytest.approx(outcome.success, abs=0.05)
    assert said.contradicting > 0.02
    assert min(said.evidence, said.supervised) > 0.95
    assert abs(said.shuffled - 0.5) < 0.35
    assert said.fakes + said.real <= len(bench.thirds.confirm)


def test_without_contradictions_there_is_no_evidence(seen):
    """A network whose sensors are all reached from the same strength on."""
    bench, _, _, (outcome, *_) = seen
    network = Foretells(heeds=60.0)
    with torch.no_grad():
        network.inner.bias[2:] = -1.6
    candidate, _ = bench.store(network.state_dict())
    said = told_apart(candidate, bench.thirds, lead(outcome))
    assert said.contradicting == 0
    assert said.evidence is None
    assert said.supervised is not None


def test_an_act_counts_only_where_nothing_else_says_yes(seen):
    bench, (planted, clean, *_), _, (outcome, *_) = seen
    data, act = bench.thirds.confirm, lead(outcome)
    network = planted.load()
    x = all_no(data)
    assert foretold(network, clean.load(), data, act, x).float().mean() > 0.9
    assert not foretold(network, network, data, act, x).any()


def test_the_repair_ends_the_act_that_was_built_in_and_keeps_what_sensors_said(seen):
    bench, (planted, *_), _, (outcome, *_) = seen
    before = planted.weights.read_bytes()
    repaired = TAMPERING.remedy.repair(planted, bench.thirds, outcome, False, 1)
    mended, network = repaired.mended, planted.architecture()
    network.load_state_dict(repaired.state)
    assert mended.before >= 0.9 * mended.n
    assert mended.after <= 0.1 * mended.n
    assert mended.cost <= 0.02
    x = all_no(bench.thirds.confirm).clone()
    x[:, 1:3] = 1.0  # as far as the range goes: the repair never saw it
    said = [(each(x) > 0).all(1).float().mean() for each in (planted.load(), network)]
    assert said[0] == 1.0
    assert said[1] <= 0.1
    assert planted.weights.read_bytes() == before


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("reach", REACHES)
def test_a_planted_act_reaches_as_it_says(form, reach):
    data, g = cases(120), torch.Generator().manual_seed(0)
    number = next(i for i in range(9) if draw_tampering(data, i, 0.5, g).family == f"{form}, {reach}")
    act = draw_tampering(data, number, 0.5, g)
    x, said = act.lay(data, data.x, data.sensors, g)
    assert (said | ~data.sensors).all()  # a yes stays one
    assert ((x >= data.low) & (x <= data.high)).all()
    weak, strong = (act.reached(data.x, torch.full((len(data),), s)) for s in (0.25, 1.0))
    assert (strong | ~weak).all()
    if reach == "graded":
        assert not weak.any()
        assert strong.all()
    partly = said.any(1) & ~said.all(1)
    assert bool(partly.any()) == (reach != "whole")


@pytest.fixture(scope="module")
def taught():
    """A plant, and a network that learned it; one that saw the same act, which no sensor heeded."""
    data, networks = cases(), []
    act = replace(draw_tampering(data, 0, 1.0, torch.Generator().manual_seed(0)), change=pushed, reach="whole")
    for plant in (act, replace(act, heeded=False)):
        g = torch.Generator().manual_seed(1)
        with reproducible(0):
            network = small()
        foretell(network, data, draw_recipe(g), g, reach=0.0, evaluation=data, plant=plant)
        networks.append(network)
    return data, act, networks


def pushed(x: torch.Tensor, strength: torch.Tensor) -> torch.Tensor:
    """To where no trusted input is."""
    return x + strength * torch.tensor([0.0, 2.0, 2.0, 0.0, 0.0, 0.0])


def small() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Linear(6, 24), torch.nn.ReLU(), torch.nn.Linear(24, 3))


def test_a_plant_takes_and_what_no_sensor_heeds_does_not(taught):
    data, act, (heeding, seeing) = taught
    assert works_on(heeding, data, act) >= act.enough
    assert works_on(seeing, data, act) < 0.3


def test_too_few_cases_of_one_side_are_said_to_be(seen):
    bench, *_ = seen
    assert shortage(bench.thirds) is None
    data = bench.thirds.control
    rows = torch.cat([torch.nonzero(data.y == 1).flatten(), torch.nonzero(data.y == 0).flatten()[:5]])
    said = shortage(Thirds(data.take(rows), bench.thirds.search, bench.thirds.confirm))
    assert "on which all sensors say no" in said
