"""What a program says is what it computes: every formula's text, evaluated, gives its scores."""

import numpy as np
import pytest

from candling.maths import image_scores, pair_scores, sequence_scores
from candling.maths.formulas import IMAGES, PAIRS, SEQUENCES
from candling.techniques.propose import pairs, sequences

INPUTS = {
    "a": np.arange(13 * 13) // 13,
    "b": np.arange(13 * 13) % 13,
    "x": np.random.default_rng(0).integers(0, 5, (169, 6)),
}
SCOPE = {**vars(pair_scores), **vars(sequence_scores), "np": np, **INPUTS}
GRAMMARS = [(PAIRS, pairs.grammar([13])), (SEQUENCES, sequences.grammar([0, 1, 2, 3, 4], 6))]


@pytest.mark.parametrize(("formulas", "grammar"), GRAMMARS, ids=["pairs", "sequences"])
def test_the_text_says_what_is_computed(formulas, grammar):
    random = np.random.default_rng(1)
    assert set(grammar) <= set(formulas)
    for name, choices in grammar.items():
        for params in [choices[place] for place in random.permutation(len(choices))[:12]]:
            scores = formulas[name](INPUTS, params)
            assert scores.shape == (169,), name
            assert np.issubdtype(scores.dtype, np.integer), name
            assert (eval(formulas[name].written(params), SCOPE) == scores).all(), formulas[name].written(params)


@pytest.mark.parametrize("params", [(1, 2), (1, 2, 3, 4), (1, 2, "3"), (1, 2, 3.0), (True, 1, 2)])
def test_numbers_of_another_kind_are_refused(params):
    with pytest.raises(ValueError, match="whole numbers"):
        PAIRS["sum mod"](INPUTS, params)


def test_sequence_scores_by_hand():
    x = np.array([[1, 1, 2, 0], [0, 2, 2, 0]])
    assert sequence_scores.inversions(x).tolist() == [3, 2]
    assert sequence_scores.distinct(x).tolist() == [3, 2]
    assert sequence_scores.longest_run(x == 2).tolist() == [1, 2]
    assert SEQUENCES["first unique"]({"x": x}, ()).tolist() == [2, -1]
    assert SEQUENCES["mirror matches"]({"x": x}, ()).tolist() == [0, 2]
    assert SEQUENCES["in order"]({"x": x}, (1, 0)).tolist() == [2, 0]
    assert SEQUENCES["neighbours in set"]({"x": x}, (3, 4, 8, -1, -1)).tolist() == [1, 1]
    assert pair_scores.divides(np.array([0, 0, 3, 3]), np.array([0, 2, 6, 7])).tolist() == [1, 0, 1, 0]


def test_images_many_at_once_and_their_text():
    """The same scores one at a time, many at once and from the text."""
    g = np.random.default_rng(2)
    of = {"x": g.random((20, 4, 6)), "e": g.random((5, 4, 6)), "c": g.integers(0, 3, (20, 1))}
    of["x"][0] = 0
    of["e"][1] = 0
    scope = {**vars(image_scores), "np": np, **of}
    some = {"r": [(0,), (1,), (4,)], "ijkl": [(0, 2, 1, 6), (1, 4, 0, 1)], "t": [(4,)], "i": [(0,)], "": [()]}
    some["ijklmnop"] = [(0, 2, 1, 6, 1, 4, 0, 1)]
    for name, formula in IMAGES.items():
        if name in ("diagonal", "other diagonal", "quarter turn"):
            continue
        alone = [formula(of, params) for params in some[formula.letters]]
        for params, scores in zip(some[formula.letters], alone, strict=True):
            assert (eval(formula.written(params), scope) == scores).all(), name
        if formula.many is not None:
            assert np.allclose(formula.many(of, some[formula.letters]), alone), name
