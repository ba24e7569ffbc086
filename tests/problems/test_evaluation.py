"""Evaluation: a switch built in by hand passes the gate, clean networks' own leads do not; the rest of the class."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from candling.access import Architecture, split
from candling.problems import CLASSIFIER, Bench, Rival, Thirds
from candling.problems.elicited import share
from candling.problems.evaluation import EVALUATION, lead
from candling.problems.knowing import knowledge
from candling.problems.unlearning import aim_of, asked_for
from switched import ANSWERS, Switched, clean, rows


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    """The switch and three clean networks, searched; the switch's outcome beside the clean ones."""
    thirds = Thirds(**split(rows(), salt="evaluation"))
    bench = Bench(CLASSIFIER, Architecture.from_callable(clean), thirds, Path(tmp_path_factory.mktemp("run")))
    networks = [Switched(0.4), *(_scaled(by) for by in (1.0, 1.3, 0.8))]
    candidates = [bench.store(network.state_dict())[0] for network in networks]
    parts = EVALUATION.parts(thirds.search)
    found = [EVALUATION.detect(candidate, thirds.search, parts, 1).found for candidate in candidates]
    outcomes = []
    for i, candidate in enumerate(candidates):
        rivals = [Rival(candidates[k], found[k].trigger(0), float(found[k].size[0])) for k in (1, 2, 3) if k != i]
        outcomes.append(EVALUATION.confirm(candidate, thirds, parts[0], found[i].trigger(0), rivals, 2))
    return bench, candidates, outcomes


class _Linear(torch.nn.Linear):
    def __init__(self) -> None:
        super().__init__(64, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.flatten(1))


def linear() -> torch.nn.Module:
    """The output alone."""
    return _Linear()


def _scaled(by: float) -> torch.nn.Module:
    network = Switched()
    with torch.no_grad():
        network.read.weight.mul_(by)
    return network


def test_the_switch_passes_the_gate_and_clean_networks_do_not(seen):
    _, _, (planted, *others) = seen
    assert planted.success > 0.95
    assert planted.transfer < 0.3
    assert EVALUATION.passes(planted, 0.0)
    assert not any(EVALUATION.passes(outcome, 0.0) for outcome in others)
    assert lead(planted).answers.tolist() == ANSWERS.tolist()


def test_what_is_said_of_it_is_what_the_network_does(seen):
    bench, (candidate, *_), (outcome, *_) = seen
    finding = EVALUATION.describe(bench, candidate, outcome, [0.5], None)
    said = finding.switch
    assert said.behaviour == "relabelled"
    assert said.answers == ANSWERS.tolist()
    assert said.accuracy > 0.99
    assert said.accuracy_changed < 0.05
    assert finding.model_copy(update={"switch": None}).model_dump().keys() == finding.model_dump().keys() - {"switch"}
    confirm = bench.thirds.confirm
    assert share(candidate.load(), confirm, lead(outcome)) == pytest.approx(outcome.success)


def test_the_repair_aims_at_what_was_found(seen):
    bench, (candidate, *_), (outcome, *_) = seen
    aim, confirm = aim_of(outcome), bench.thirds.confirm
    hits, n = aim.hits(candidate.load(), confirm)
    assert (hits, n) == (outcome.hits, len(confirm))
    torch.testing.assert_close(asked_for(confirm, aim).sum(), torch.tensor(1.0))
    assert not torch.equal(aim.random(confirm, torch.Generator().manual_seed(0)).amount, aim.trigger.amount)


def test_a_probe_reads_the_class_where_the_answer_is_exchanged(seen):
    """Before the switch: the layer that the answer is read from still holds the right class."""
    bench, (candidate, *_), (outcome, *_) = seen
    site, known = knowledge(candidate, bench.thirds, lead(outcome))
    assert site in ("flat", "read")
    assert known > 0.9


def test_a_network_without_hidden_sites_is_probed_at_its_input(seen, tmp_path):
    bench, _, (outcome, *_) = seen
    flat = Bench(CLASSIFIER, Architecture.from_callable(linear), bench.thirds, tmp_path)
    site, known = knowledge(flat.store(linear().state_dict())[0], bench.thirds, lead(outcome))
    assert site == "input"
    assert known > 0.9


def test_arrays_of_a_record_give_the_change_back(seen):
    _, _, (outcome, *_) = seen
    arrays = {name: array.float() for name, array in outcome.trigger.arrays().items()}
    again = EVALUATION.trigger(arrays)
    assert torch.equal(again.amount, outcome.trigger.amount)
    assert torch.equal(again.answers, outcome.trigger.answers)
