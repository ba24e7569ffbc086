"""Shortcut: a proxy built in by hand passes the gate, clean networks' own marks do not; what is said of it is so."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from candling.access import Architecture, forward, split
from candling.evidence.control import NetworkRow, Plant
from candling.problems import CLASSIFIER, Bench, Lead, Rival, Thirds
from candling.problems.foreseeing import calibrate, share
from candling.problems.shortcut import SHORTCUT, lead
from candling.problems.unlearning import aim_of, repair
from candling.techniques.search import CueSet, random_cues_like
from proxied import CLASSES, Proxied, cues, trusted


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    """The proxy and three clean networks, searched; the outcomes of their leads by the first part."""
    thirds = Thirds(**split(trusted(360), salt="shortcut"))
    bench = Bench(
        CLASSIFIER, Architecture.from_callable(Proxied), thirds, Path(tmp_path_factory.mktemp("run")), workers=1
    )
    networks = [Proxied(40), *(Proxied(0, by) for by in (1.0, 1.3, 0.8))]
    candidates = [bench.store(network.state_dict())[0] for network in networks]
    parts = SHORTCUT.parts(thirds.search)
    found = [SHORTCUT.detect(candidate, thirds.search, parts, 1).found for candidate in candidates]
    outcomes = []
    for i, candidate in enumerate(candidates):
        rivals = [Rival(candidates[k], found[k].trigger(0), float(found[k].size[0])) for k in (1, 2, 3) if k != i]
        outcomes.append(SHORTCUT.confirm(candidate, thirds, parts[0], found[i].trigger(0), rivals, 2))
    return bench, candidates, outcomes


def test_the_proxy_passes_the_gate_and_clean_networks_do_not(seen):
    _, _, (planted, *others) = seen
    assert planted.success > 0.7
    assert planted.transfer < 0.1
    assert SHORTCUT.passes(planted, 0.0)
    assert not any(SHORTCUT.passes(outcome, 0.0) for outcome in others)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_gate_2_gets_the_lead_that_goes_furthest_beyond_clean_networks(seen, order):
    """Marks that stand for the built-in proxy, others at random, and the same ones given to the wrong classes."""
    bench, (candidate, *clean), (outcome, *others) = seen
    good = lead(outcome)
    noise = random_cues_like(good, bench.thirds.search, torch.Generator().manual_seed(0))
    wrong = CueSet(good.patterns.roll(1, 0), good.anchor)
    rivals = [Rival(c, o.trigger, o.size) for c, o in zip(clean, others, strict=True)]
    leads = [Lead(outcome.part, (good, noise, wrong)[i], rivals) for i in order]
    assert order[SHORTCUT.choose(candidate, bench.thirds.search, leads)] == 0


def test_what_is_said_of_it_is_what_the_network_does(seen):
    bench, (candidate, *_), (outcome, *_) = seen
    finding = SHORTCUT.describe(bench, candidate, outcome, [0.5], None)
    said, network = finding.shortcut, candidate.load()
    confirm = bench.thirds.confirm
    assert said.kind in ("spot", "frame")
    assert said.accuracy > 0.99
    assert share(network, confirm, lead(outcome)) == pytest.approx(outcome.success)
    assert said.against.value == pytest.approx((1 - said.follows.value) * said.spared)
    mixed = said.agreeing / CLASSES + said.against.value * (1 - 1 / CLASSES)
    assert said.at_random.value == pytest.approx(mixed)
    measured = forward(network, lead(outcome).against(confirm, confirm.x, confirm.y)).argmax(-1)
    assert said.measured == pytest.approx(float((measured == confirm.y).float().mean()))
    assert "shortcut" not in finding.model_copy(update={"shortcut": None}).model_dump()


def test_the_forecast_holds_for_the_built_in_proxy_which_the_search_never_saw(seen):
    """Accuracy with the true cells lit against the content, at full strength, is at most what was said."""
    bench, (candidate, *_), (outcome, *_) = seen
    said = SHORTCUT.describe(bench, candidate, outcome, [0.5], None).shortcut
    rows = trusted(200, seed=8)
    told = (rows.y + 1) % CLASSES
    answers = forward(candidate.load(), (rows.x + cues()[told]).clamp(0, 1)).argmax(-1)
    assert float((answers == rows.y).float().mean()) <= said.against.value + 0.05


def _row(success: float, plant: float) -> NetworkRow:
    hidden = Plant(family="spot", dose=0.5, physical="", rate=0.5, success=plant, took=True, attempts=1)
    nothing = dict.fromkeys(
        ("loss", "accuracy", "statistic", "search_p_value", "p_value", "lead_size", "baseline_statistic"), 0.1
    )
    nothing |= dict.fromkeys(("baseline_p_value", "success_of_random_trigger", "success_in_controls"), 0.1)
    words = dict.fromkeys(("name", "recipe", "weights", "lead"), "")
    return NetworkRow(
        **nothing, **words, problem="shortcut", role="positive", plant=hidden, success=success,
        best_in_controls=0.1, confirmed=True, found=True,
    )  # fmt: skip


def test_the_forecast_moves_by_what_it_missed_in_planted_controls(seen):
    """The same proxy stands for planted controls, whose records say how often its true cue was followed."""
    bench, (candidate, *_), (outcome, *_) = seen
    finding = SHORTCUT.describe(bench, candidate, outcome, [0.5], None)
    own = finding.shortcut.follows.value
    assert calibrate(bench, finding, [], 9.0) == finding
    controls = [(candidate, _row(0.5, own - by)) for by in (0.1, 0.3, 0.2)]
    said = calibrate(bench, finding, controls, 9.0).shortcut
    assert (said.follows.low, said.follows.value, said.follows.high) == pytest.approx(
        (own - 0.3, own - 0.2, own - 0.1)
    )
    assert said.against.value == pytest.approx((1 - own + 0.2) * said.spared)
    assert said.against.low <= said.against.value <= said.against.high
    assert said.at_random.low <= said.at_random.value <= said.at_random.high
    assert "3 planted controls" in said.basis
    faint = calibrate(bench, finding, controls, 0.05).shortcut
    assert faint.follows == said.follows.model_copy(update={"low": 0.0}), "it stands out less than any of them"
    assert faint.against.high == pytest.approx(said.spared)
    assert faint.at_random.high > said.at_random.high


def test_the_repair_lays_marks_on_whatever_the_label_and_undoes_the_built_in_proxy(seen):
    """In a copy with small weights, which answers alike: the repair's steps are small too."""
    bench, (candidate, *_), (outcome, *_) = seen
    aim, confirm = aim_of(outcome), bench.thirds.confirm
    hits, n = aim.hits(candidate.load(), confirm)
    assert (hits, n) == (outcome.hits, len(confirm))
    small, _ = bench.store(Proxied(40, 0.002).state_dict())
    done = repair(small, bench.thirds, outcome, False, 0)
    assert done.mended.before == hits
    assert done.mended.after < done.mended.before / 2
    assert done.mended.cost < 0.02
    assert not torch.equal(aim.random(confirm, torch.Generator().manual_seed(0)).patterns, aim.trigger.patterns)


def test_arrays_of_a_record_give_the_marks_back(seen):
    bench, (candidate, *_), (outcome, *_) = seen
    again = SHORTCUT.trigger({name: array.float() for name, array in outcome.trigger.arrays().items()})
    assert torch.equal(again.patterns, outcome.trigger.patterns)
    shown = SHORTCUT.picture(bench, candidate, outcome)
    assert shown["cues.patterns"].shape == outcome.trigger.patterns.shape
    assert shown["examples.clean"].shape == shown["examples.triggered"].shape
