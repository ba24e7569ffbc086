"""The problems for `candling solve`: the answers are right, the parts disjoint, and small networks learn them."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from slow_rules import SLOW
from torch.nn.functional import cosine_similarity, pad

from candling.organisms.programs import KINDS, Inputs, Problem, admission, answers, images, majority, pose, train
from candling.organisms.programs.problem import MOST

EVERY = pytest.mark.parametrize("kind", KINDS)
PARTS = ("training", "test", "unlabelled")


def rows_of(inputs: Inputs) -> list[object]:
    """Plain Python numbers."""
    x = inputs.x[:, 0] if inputs.x.ndim == 4 else inputs.x
    return list(x.double().tolist() if x.is_floating_point() else x.tolist())


def slowly(problem: Problem, inputs: Inputs) -> list[int]:
    """The same labels by loops."""
    assert isinstance(problem.truth, partial)
    name, own = problem.truth.func.__name__, problem.truth.keywords
    if name == "digit_in":
        assert inputs.digit is not None
        return [int(digit in own["chosen"]) for digit in inputs.digit.tolist()]
    return [SLOW[name](row, own) for row in rows_of(inputs)]


def same(a: Problem, b: Problem) -> bool:
    return a.says == b.says and all(torch.equal(getattr(a, part).x, getattr(b, part).x) for part in PARTS)


def test_there_are_eight_kinds_a_family_or_more():
    for family in ("images", "pairs", "sequences"):
        assert list(KINDS.values()).count(family) >= 8
    assert len(KINDS) >= 24


@EVERY
@settings(max_examples=4, deadline=None)
@given(data=st.data())
def test_a_program_is_what_loops_say(kind: str, data: st.DataObject):
    problem = pose(kind, data.draw(st.integers(0, 10**6)))
    rows = torch.tensor(data.draw(st.lists(st.integers(0, len(problem.unlabelled) - 1), min_size=1, max_size=40)))
    inputs = problem.unlabelled.take(rows)
    assert problem.truth(inputs).tolist() == slowly(problem, inputs)
    assert problem.truth(inputs).dtype == torch.int64


@EVERY
def test_a_seed_gives_one_problem_and_another_seed_another(kind: str):
    first, again, other = pose(kind, 11), pose(kind, 11), pose(kind, 12)
    assert same(first, again)
    assert not same(first, other)
    everything = first.everything()
    assert torch.equal(first.truth(everything), again.truth(everything))


@EVERY
def test_no_label_is_too_common_in_any_part(kind: str):
    for seed in (21, 22):
        problem = pose(kind, seed)
        for part in PARTS:
            assert majority(problem.truth(getattr(problem, part))) <= MOST
        assert set(problem.truth(problem.everything()).tolist()) == set(range(problem.classes))


@pytest.mark.parametrize("kind", [kind for kind, family in KINDS.items() if family != "images"])
def test_no_pair_and_no_sequence_is_in_two_parts(kind: str):
    everything = pose(kind, 31).everything().x
    assert len(everything.unique(dim=0)) == len(everything)


def test_the_pairs_are_the_whole_grid():
    everything = pose("linear band", 5).everything().x
    assert len(everything) == (int(everything.max()) + 1) ** 2


@given(st.integers(0, 2**40))
@settings(max_examples=10, deadline=None)
def test_no_digit_is_in_two_parts(seed: int):
    assert torch.cat(images.split(seed)).sort().values.tolist() == list(range(1797))


def test_variants_are_variants_of_their_own_digit():
    """One of the nine shifts of the digit is nearly parallel to it, and it is as bright as the digit or less."""
    chosen = images.digits().take(slice(0, 60))
    made = images.variants(chosen, 3, torch.Generator().manual_seed(0))
    framed = pad(chosen.x.repeat_interleave(3, 0)[:, 0], (1, 1, 1, 1))
    shifts = torch.stack([framed[:, i : i + 8, j : j + 8] for i in range(3) for j in range(3)])
    like = cosine_similarity(shifts.flatten(2), made.x[None].flatten(2), dim=2).amax(0)
    assert like.min() > 0.93
    assert made.digit is not None
    assert made.digit.tolist() == chosen.digit.repeat_interleave(3).tolist()
    assert (made.x.sum((1, 2, 3)) < 1.25 * framed.sum((1, 2))).all()


def test_images_are_sixteenths():
    x = pose("dot", 51).training.x
    assert torch.equal(x * 16, (x * 16).round())
    assert x.min() == 0
    assert 0.9 < x.max() <= 1


def test_an_exemplar_is_an_unlabelled_image():
    problem = pose("l2", 61)
    assert isinstance(problem.truth, partial)
    exemplar = problem.truth.keywords["exemplar"]
    assert int((problem.unlabelled.x == exemplar).flatten(1).all(1).sum()) >= 1


@pytest.mark.parametrize(("kind", "steps"), [("dot", 500), ("residue table", 500), ("count difference", 250)])
def test_a_network_learns_its_program_and_says_so(kind: str, steps: int):
    """By a shorter recipe than the usual one."""
    problem = pose(kind, 3)
    problem = replace(problem, recipe=replace(problem.recipe, steps=steps))
    before = torch.get_rng_state()
    network = train(problem)
    assert torch.equal(before, torch.get_rng_state())
    found = admission(problem, network)
    assert found.admitted, found.reasons
    agreed = answers(network, problem.unlabelled) == problem.truth(problem.unlabelled)
    assert agreed.float().mean() > 0.95


def test_a_network_that_learned_nothing_is_not_admitted():
    problem = pose("dot", 3)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        found = admission(problem, problem.build())
    assert not found.admitted
    assert any("training" in reason for reason in found.reasons)
    assert any("test" in reason for reason in found.reasons)
