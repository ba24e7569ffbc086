"""Concealment: a lie built in by hand passes the gate with the truth read inside; honest networks do not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from candling.access import Architecture, split
from candling.problems import CLASSIFIER, Bench, Rival, Thirds
from candling.problems.concealment import CONCEALMENT, outcome_context
from candling.problems.unlearning import aim_of
from lying import Lying, honest
from switched import ANSWERS, rows


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    """The liar and three honest networks, searched; the liar's outcome beside the honest ones."""
    thirds = Thirds(**split(rows(), salt="concealment"))
    bench = Bench(CLASSIFIER, Architecture.from_callable(honest), thirds, Path(tmp_path_factory.mktemp("run")))
    networks = [Lying(0.05), *(_scaled(by) for by in (1.0, 1.3, 0.8))]
    candidates = [bench.store(network.state_dict())[0] for network in networks]
    parts = CONCEALMENT.parts(thirds.search)
    found = [CONCEALMENT.detect(candidate, thirds.search, parts, 1).found for candidate in candidates]
    outcomes = []
    for i in (0, 1):
        rivals = [Rival(candidates[k], found[k].trigger(0), float(found[k].size[0])) for k in (1, 2, 3) if k != i]
        outcomes.append(CONCEALMENT.confirm(candidates[i], thirds, parts[0], found[i].trigger(0), rivals, 2))
    return bench, candidates, outcomes


def _scaled(by: float) -> torch.nn.Module:
    network = Lying()
    with torch.no_grad():
        network.read.weight.mul_(by)
    return network


def test_the_liar_passes_the_gate_and_an_honest_network_does_not(seen):
    _, _, (lying, other) = seen
    assert lying.success > 0.9
    assert lying.transfer < 0.2
    assert CONCEALMENT.passes(lying, 0.0)
    assert not CONCEALMENT.passes(other, 0.0)


def test_the_truth_is_recovered_where_it_is_not_said(seen):
    bench, (candidate, *_), (outcome, *_) = seen
    finding = CONCEALMENT.describe(bench, candidate, outcome, [0.3], None)
    said = finding.concealment
    assert said.answers == ANSWERS.tolist()
    assert said.accuracy > 0.99
    assert said.said < 0.05
    assert said.known > 0.9
    assert said.known_at in ("flat", "read")
    assert said.known_shuffled < 0.6
    assert "waves" in said.context


def test_a_gate_that_sees_the_input_alone_is_in_no_direction_of_states(seen):
    bench, (candidate, *_), (outcome, *_) = seen
    where = CONCEALMENT.locate(candidate, bench.thirds, outcome, 0)
    assert where.success > 0.9
    assert where.accuracy_changed < 0.05
    assert where.elicited < 0.2


def test_arrays_of_a_record_give_the_context_back_and_repair_aims_at_it(seen):
    bench, (candidate, *_), (outcome, *_) = seen
    again = CONCEALMENT.trigger({name: array.float() for name, array in outcome.trigger.arrays().items()})
    assert torch.equal(again.shift, outcome.trigger.shift)
    assert torch.equal(again.answers, outcome.trigger.answers)
    confirm = bench.thirds.confirm
    hits, n = aim_of(outcome).hits(candidate.load(), confirm)
    assert n == int(outcome_context(outcome).applies(confirm.y).sum())
    assert hits >= outcome.hits  # concealed are those lies that the probe sees through


def test_one_pair_that_is_confused_is_no_lie(seen):
    """An assignment that moves a single class cannot be one; with none moved there is nothing to conceal."""
    _, _, (outcome, *_) = seen
    same = replace(outcome, trigger=replace(outcome.trigger, answers=torch.arange(4)))
    assert not CONCEALMENT.passes(same, 0.0)
