"""Proposers on planted rules: found under noise, and nothing is found in noise."""

from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from candling.evidence.program import Feature, Steps, Table, features_of, run_program
from candling.report.program_text import says
from candling.techniques.propose import GRAMMARS, Seen
from candling.techniques.propose.couples import couples
from candling.techniques.propose.opaque import fit_opaque
from candling.techniques.propose.settling import settled

GRID = np.stack(np.meshgrid(np.arange(17), np.arange(17), indexing="ij"), -1).reshape(-1, 2)
A, B = GRID.T
WORDS = np.random.default_rng(0).integers(0, 4, (500, 7))
LONG = np.random.default_rng(9).integers(0, 6, (900, 7))
RULES = {
    "an arc of the circle": ("pairs", GRID, (3 * A + 5 * B) % 17 < 8, "sum mod"),
    "a band of distances": ("pairs", GRID, (np.abs(A - B) > 4) & (np.abs(A - B) < 11), "distance"),
    "either divides": ("pairs", GRID, (A % 3 == 0) ^ (B % 2 == 0), "divides both"),
    "a difference of counts": ("sequences", WORDS, (WORDS == 1).sum(1) > (WORDS == 3).sum(1), "counts"),
    "a set's count less another's": (
        "sequences",
        LONG,
        np.abs(np.isin(LONG, (1, 4)).sum(1) - np.isin(LONG, (0, 5)).sum(1)) < 2,
        "set less set",
    ),
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


STAIRS = st.tuples(
    st.lists(st.integers(-5, 5), min_size=30, max_size=60),
    st.lists(st.floats(-5.5, 5.5).map(lambda cut: round(cut) + 0.5), min_size=1, max_size=3, unique=True),
    st.integers(0, 2**32 - 1),
)


@given(STAIRS)
def test_settled_cuts_never_err_more_and_stay_in_order(drawn):
    values, cuts, seed = drawn
    x = np.stack([np.array(values), np.zeros(len(values), dtype=int)], 1) + 6
    answers = np.random.default_rng(seed).integers(0, 3, len(x))
    seen = Seen("pairs", x, answers, 3)
    feature = Feature(kind="pairs", formula="sum", params=(1, 0))
    says = tuple(i % 3 for i in range(len(cuts) + 1))
    before = Steps(feature=feature, cuts=tuple(sorted(cut + 6 for cut in cuts)), answers=says)
    after = settled(before, seen)
    right = [(run_program(each, seen.inputs) == answers).sum() for each in (before, after)]
    assert right[1] >= right[0]
    assert list(after.cuts) == sorted(set(after.cuts))
    assert (
        settled(after, seen) == after or (run_program(settled(after, seen), seen.inputs) == answers).sum() > right[1]
    )


@pytest.mark.parametrize("other", [0, 1])
def test_what_a_table_does_not_list_is_settled_and_said(other):
    feature = Feature(kind="pairs", formula="sum", params=(1, 0))
    table = Table(feature=feature, values=(0, 1, 2), answers=(1, 0, 1), other=1 - other)
    x = np.stack([np.arange(6), np.zeros(6, dtype=int)], 1)
    answers = np.array([1, 0, 1, other, other, other])
    after = settled(table, Seen("pairs", x, answers, 2))
    assert (run_program(after, {"a": x[:, 0], "b": x[:, 1]}) == answers).all()
    assert says(after) == ("1 if a is none of 1, else 0" if other else "1 if a is 0 or 2, else 0")


def test_one_answer_has_no_program():
    assert GRAMMARS["pairs"](Seen("pairs", GRID, np.zeros(len(GRID), int), 2)).proposals == []


def test_opaque_models_fit_what_they_can():
    seen = Seen("pairs", GRID, (A + B > 16).astype(int), 2)
    right = {each.name: (each.answer(GRID) == seen.answers).mean() for each in fit_opaque(seen)}
    assert right["linear model"] > 0.97
    assert right["deep tree"] > 0.9


PICTURES = np.random.default_rng(6).integers(0, 17, (400, 5, 5)) / 16


def middle(scores):
    return scores >= np.median(scores)


IMAGE_RULES = {
    "near an exemplar": (middle(-np.abs(PICTURES - PICTURES[17]).sum((1, 2))), {"l1"}),
    "more ink in one box than in another": (
        PICTURES[:, 1:3, :2].sum((1, 2)) > PICTURES[:, 3:, 3:].sum((1, 2)),
        {"ink less ink"},
    ),
    "one box or else another": (
        middle(PICTURES[:, :2, :3].sum((1, 2))) ^ middle(PICTURES[:, 3:, 2:].sum((1, 2))),
        {"ink"},
    ),
}


@pytest.mark.parametrize("rule", IMAGE_RULES)
def test_a_rule_of_images_is_found(rule):
    truth, formulas = IMAGE_RULES[rule]
    seen = Seen("images", PICTURES, truth.astype(np.int64), 2)
    best = GRAMMARS["images"](seen).proposals[0]
    assert {feature.formula for feature in features_of(best.program)} == formulas
    assert (run_program(best.program, seen.inputs) == truth).mean() > 0.95


def test_a_concept_is_read_from_its_column():
    digits = np.random.default_rng(7).integers(0, 10, (400, 1))
    truth = np.isin(digits[:, 0], [1, 4, 5]).astype(np.int64)
    best = GRAMMARS["images"](Seen("images", PICTURES, truth, 2, concepts=digits)).proposals[0]
    assert [feature.formula for feature in features_of(best.program)] == ["concept"]
    assert best.wrong == 0


def test_the_best_couple_is_the_best_of_all():
    g = np.random.default_rng(8)
    scores, gains = g.integers(0, 9, (5, 60)).astype(float), g.choice([-1.0, 1.0], 60)
    found = couples(scores, gains, 3)
    assert [each.join == "xor" for each in found] == sorted((each.join == "xor" for each in found), reverse=True)
    cuts = np.quantile(scores, (0.3, 0.5, 0.7), axis=1).T
    crossed = 0.0
    for i, j in combinations(range(5), 2):
        for low, high in product(cuts[i], cuts[j]):
            either = (scores[i] >= low) ^ (scores[j] >= high)
            crossed = max(crossed, gains[either].sum(), gains[~either].sum())
    for each in found:
        parts = [
            (scores[at] >= cut) == above for at, cut, above in zip(each.features, each.cuts, each.above, strict=True)
        ]
        joined = {"and": parts[0] & parts[1], "or": parts[0] | parts[1], "xor": parts[0] ^ parts[1]}[each.join]
        assert gains[joined].sum() == pytest.approx(each.gain, abs=1e-4)
    assert max(each.gain for each in found if each.join == "xor") <= crossed + 1e-4
