"""Grading: marks are what they are called, nulls come out as nulls, and pages say what the cards say."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ttest_1samp
from sklearn.metrics import roc_auc_score

from candling.errors import InputError
from candling.evidence.card import Card, Figure, Grades
from candling.maths.triggers import Mapping
from candling.organisms.networks.digits import digits
from candling.organisms.networks.gates import and_gate
from candling.problems.backdoor import parts
from candling.techniques.cards import best_detector, cards
from candling.techniques.flag import DETECTORS, OF_ATTRIBUTIONS
from candling.techniques.search import SEARCHES
from candling.workflows.exams import circuits, flagging, searching
from candling.workflows.exams.figures import mean_of
from candling.workflows.exams.organism import CLEAN_EVERY, auroc, grow
from candling.workflows.grade import EXAMS, grade
from candling.workflows.technique_pages import FIELDS, header, methods, pages, questions


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=20))
def test_the_interval_is_students(values):
    found = mean_of("x", [*values, math.nan])
    assert found.n == len(values)
    assert found.value == pytest.approx(np.mean(values), abs=1e-9)
    if np.std(values) > 1e-6:
        expected = ttest_1samp(values, 0.0).confidence_interval(0.95)
        assert (found.low, found.high) == pytest.approx(tuple(expected), rel=1e-6, abs=1e-9)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=15), st.lists(st.integers(0, 5), min_size=1, max_size=15))
def test_auroc_is_scikit_learns_ties_and_all(high, low):
    expected = roc_auc_score([1] * len(high) + [0] * len(low), [*high, *low])
    assert auroc(torch.tensor(high), torch.tensor(low)) == pytest.approx(expected)


@pytest.fixture(scope="module")
def circuit_cards() -> dict[str, Card]:
    told = [circuits.sit(number, 3) for number in range(6)]
    return {card.technique: card for card in circuits.mark(told)}


def test_exact_patching_finds_every_circuit_and_chance_none(circuit_cards):
    assert set(circuit_cards) == set(circuits.LOCATORS)
    exact, null = (circuit_cards[name] for name in ("path patching", "random"))
    assert exact.score.value == 1.0
    assert exact.figures[1].value > 0.999
    assert exact.figures[2].value == 0.0
    assert abs(null.score.value - 0.5) < 0.25
    assert abs(null.figures[1].value) < 0.25


def test_a_shuffled_network_has_the_same_numbers_and_another_function():
    circuit = and_gate(noise=0.005)
    mixed = circuits.shuffled(circuit.anatomy, torch.Generator().manual_seed(0))
    for one, other in zip(circuit.anatomy.blocks, mixed.blocks, strict=True):
        same = one.attention.value.flatten().sort().values, other.attention.value.flatten().sort().values
        assert torch.equal(*same)
        assert not torch.equal(one.attention.value, other.attention.value)
    tokens = circuit.pairs(4, torch.Generator().manual_seed(1)).clean
    assert not torch.allclose(circuit.anatomy(tokens), mixed(tokens))


def made_up(mapping: Mapping, planted: bool, loud: float, seed: int) -> searching.Sitting:
    """Scores of a search that sees a plant at its place, and of one that sees nothing."""
    _, data = digits()
    wanted, g = parts(data), np.random.default_rng(seed)
    seeing = g.normal(0, 1, len(wanted))
    place = next(i for i, part in enumerate(wanted) if part.mapping == mapping)
    seeing[place] += loud if planted else 0.0
    told = {"sees": searching.Told(seeing, 1.0), "blind": searching.Told(g.normal(0, 1, len(wanted)), 2.0)}
    idle = {name: searching.Told(g.normal(0, 1, len(wanted)), 1.0) for name in told}
    return searching.Sitting("x", planted, planted, mapping, told, idle)


def test_a_search_that_sees_is_told_from_one_that_does_not():
    sittings = [made_up(Mapping(target=i % 10), i % 3 != 2, 40.0, i) for i in range(30)]
    marked = {card.technique: card for card in searching.mark(sittings)}
    assert marked["sees"].score.value == 1.0
    assert marked["sees"].figures[1].value == 1.0
    assert marked["blind"].score.low < 0.5 < marked["blind"].score.high
    assert marked["blind"].figures[1].value < 0.4
    assert marked["blind"].seconds == 2.0


@pytest.fixture(scope="module")
def sitting() -> flagging.Sitting:
    return flagging.sit(0, 12)  # an organism whose plant took


def test_every_detector_sits_the_exam_and_states_beat_chance(sitting):
    told = {each.technique: each for each in sitting.told}
    assert set(DETECTORS) <= set(told)
    assert all(0 <= each.triggered <= 1 and 0 <= each.turned <= 1 for each in sitting.told)
    assert told["Mahalanobis"].triggered > told["random"].triggered + 0.2
    assert abs(told["random"].turned - flagging.FALSE_ALARMS) < 0.1


def test_clean_organisms_and_failed_plants_are_kept_out_of_what_is_called_found(sitting):
    clean = replace(sitting, planted=False, took=False, told=[replace(t, triggered=0.0) for t in sitting.told])
    failed = replace(clean, planted=True)
    by_name = {card.technique: card for card in flagging.mark([sitting, clean, failed])}
    for told in sitting.told:
        assert by_name[told.technique].score.value == told.triggered
        assert by_name[told.technique].score.n == 1
        assert by_name[told.technique].figures[1].value == 0.0


def test_a_third_is_clean_and_the_same_number_gives_the_same_organism():
    _, trusted = digits()
    one, again = (grow(CLEAN_EVERY - 1, 4, trusted) for _ in range(2))
    assert not one.planted
    assert not one.took
    weights = (list(each.network.state_dict().values()) for each in (one, again))
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))


def test_what_cannot_be_graded_is_refused():
    with pytest.raises(InputError, match="no exam for 'guess': choose from flag, locate, search"):
        grade(["guess"])
    with pytest.raises(InputError, match="3 organisms tell nothing"):
        grade(["locate"], subjects=3)


def test_every_technique_says_what_it_asks_where_it_is_from_what_it_costs_and_when_it_fails():
    found = [module for _, folder in questions() for module in methods(folder)]
    assert len(found) > 30
    for module in found:
        title, said = header(module)
        assert title.endswith((".", "?")), module.__name__
        assert set(said) == set(FIELDS), module.__name__


def test_the_cards_that_audits_read_are_of_every_technique_that_has_an_exam():
    kept = cards()
    by_question = {name: {c.technique for c in kept.cards if c.question == name} for name in EXAMS}
    assert by_question["locate"] == set(circuits.LOCATORS)
    assert by_question["search"] == set(SEARCHES)
    assert set(DETECTORS) <= by_question["flag"]
    for name in EXAMS:
        assert kept.best(name).score.value >= max(
            card.score.value for card in kept.cards if card.question == name and not math.isnan(card.score.value)
        )


def test_pages_show_every_card_and_every_method():
    figure = Figure(measure="AUROC", value=0.75, low=0.5, high=0.9, n=3)
    card = Card(technique="a <b> technique", question="flag", exam="an exam", figures=[figure], seconds=1.5)
    written = pages(Grades(candling="0", seed=3, subjects=9, cards=[card]))
    assert {name.removesuffix(".md") for name in written} == {"README", *(name for name, _ in questions())}
    assert "candling grade --subjects 9 --seed 3" in written["README.md"]
    assert "| 0.75 [0.50, 0.90] | 1.5 |" in written["flag.md"]
    assert "`mahalanobis`" in written["flag.md"]


def test_the_index_in_the_docs_is_what_headers_and_kept_cards_say():
    """`make techniques` writes it anew."""
    folder = Path(__file__).parents[2] / "docs" / "techniques"
    assert {path.name: path.read_text(encoding="utf-8") for path in folder.iterdir()} == pages(cards())


def test_an_audit_uses_the_detector_with_the_best_card():
    best = cards().best("flag")
    chosen = best_detector()
    assert chosen.fit is DETECTORS[chosen.name.removesuffix(OF_ATTRIBUTIONS)]
    assert chosen.name == best.technique
    assert chosen.attributions == chosen.name.endswith(OF_ATTRIBUTIONS)
