"""Proposers on planted rules: found under noise, and nothing is found in noise."""

import numpy as np
import pytest

from candling.evidence.program import features_of, run_program
from candling.techniques.propose import GRAMMARS, Seen
from candling.techniques.propose.opaque import fit_opaque

GRID = np.stack(np.meshgrid(np.arange(17), np.arange(17), indexing="ij"), -1).reshape(-1, 2)
A, B = GRID.T
WORDS = np.random.default_rng(0).integers(0, 4, (500, 7))
RULES = {
    "an arc of the circle": ("pairs", GRID, (3 * A + 5 * B) % 17 < 8, "sum mod"),
    "a band of distances": ("pairs", GRID, (np.abs(A - B) > 4) & (np.abs(A - B) < 11), "distance"),
    "either divides": ("pairs", GRID, (A % 3 == 0) ^ (B % 2 == 0), "divides both"),
    "a difference of counts": ("sequences", WORDS, (WORDS == 1).sum(1) > (WORDS == 3).sum(1), "counts"),
    "a sum's remainder": ("sequences", WORDS, np.isin(WORDS.sum(1) % 4, [0, 1]), "sum"),
}


def noisy(truth, seed=0):
    flipped = np.random.default_rng(seed).random(len(truth)) < 0.02
    return np.where(flipped, ~truth, truth).astype(np.int64)


@pytest.mark.parametrize("rule", RULES)
def test_a_planted_rule_is_found_under_noise(rule):
    kind, x, truth, formula = RULES[rule]
    best = GRAMMARS[kind](Seen(kind, x, noisy(truth), 2)).proposals[0]
    assert [feature.formula for feature in features_of(best.program)] == [formula]
    assert (run_program(best.program, Seen(kind, x, truth.astype(int), 2).inputs) == truth).mean() > 0.99
    assert best.bits < 60


def test_answers_of_several_classes_become_a_staircase_or_a_table():
    truth = (A + B) // 12
    best = GRAMMARS["pairs"](Seen("pairs", GRID, truth, 3)).proposals[0]
    assert (run_program(best.program, {"a": A, "b": B}) == truth).all()


def test_two_parts_are_joined():
    truth = ((A + 2 * B) % 17 < 9) & (A > 5)
    best = GRAMMARS["pairs"](Seen("pairs", GRID, noisy(truth), 2)).proposals[0]
    assert (run_program(best.program, {"a": A, "b": B}) == truth).mean() > 0.98


def test_nothing_is_found_in_noise():
    """On inputs that chose nothing, the best of thousands is no better than the commonest answer."""
    answers = np.random.default_rng(3).integers(0, 2, len(WORDS))
    best = GRAMMARS["sequences"](Seen("sequences", WORDS, answers, 2)).proposals[0]
    fresh = np.random.default_rng(4).integers(0, 4, (2000, 7))
    said = run_program(best.program, Seen("sequences", fresh, np.zeros(2000, int), 2).inputs)
    assert abs((said == np.random.default_rng(5).integers(0, 2, 2000)).mean() - 0.5) < 0.05
    assert best.wrong > 0.3 * len(WORDS) / 2


def test_one_answer_has_no_program():
    assert GRAMMARS["pairs"](Seen("pairs", GRID, np.zeros(len(GRID), int), 2)).proposals == []


def test_opaque_models_fit_what_they_can():
    seen = Seen("pairs", GRID, (A + B > 16).astype(int), 2)
    right = {each.name: (each.answer(GRID) == seen.answers).mean() for each in fit_opaque(seen)}
    assert right["linear model"] > 0.97
    assert right["deep tree"] > 0.9
