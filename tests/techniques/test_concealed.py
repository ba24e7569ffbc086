"""Contexts and lies: sizes are what they say, an assignment is the best of all, a lie built in by hand is found."""

from __future__ import annotations

from itertools import permutations

import pytest
import torch

from candling.access import from_arrays
from candling.techniques.read import read_in_trusted_contexts
from candling.techniques.search import (
    Context,
    context_parts,
    random_context_like,
    random_contexts,
    search_contexts,
)
from candling.techniques.search.concealed import exchanged
from candling.techniques.search.contexts import draw_patterns, library, shift_of, size_of, words_for
from lying import Lying, wave
from switched import ANSWERS, rows


@pytest.fixture(scope="module")
def data():
    return rows()


def table():
    g = torch.Generator().manual_seed(0)
    return from_arrays(torch.randn(60, 5, generator=g), torch.arange(60) % 3)


@pytest.mark.parametrize("make", [rows, table])
def test_a_pattern_of_the_library_has_its_strength_as_size_and_its_own_name(make):
    data = make()
    named = library(data)
    shifts = shift_of(data, 0.3 * torch.stack([each.pattern for each in named]))
    torch.testing.assert_close(size_of(data, shifts), torch.full((len(named),), 0.3))
    assert all("cosine 1.00" in words_for(data, shifts[i]) for i in (0, len(named) // 2))
    assert named[0].name in words_for(data, shifts[0])
    drawn = draw_patterns(data, 8, torch.Generator().manual_seed(0))
    torch.testing.assert_close(drawn.flatten(1).square().mean(1), torch.ones(8))


def test_larger_images_are_drawn_on_a_coarse_grid():
    g = torch.Generator().manual_seed(0)
    data = from_arrays(torch.rand(8, 3, 40, 40, generator=g), torch.arange(8) % 2)
    assert shift_of(data, draw_patterns(data, 2, g)).shape == (2, 3, 40, 40)


def test_a_random_context_has_the_size_of_the_one_it_stands_for(data):
    context = Context(0.2 * wave(), ANSWERS)
    other = random_context_like(context, data, torch.Generator().manual_seed(1))
    torch.testing.assert_close(size_of(data, other.shift[None]), size_of(data, context.shift[None]))
    assert not torch.allclose(other.shift, context.shift)


def test_the_assignment_is_the_best_of_all(data):
    answers = torch.randint(4, (len(data),), generator=torch.Generator().manual_seed(3))
    share = torch.stack([torch.bincount(answers[data.y == k], minlength=4) / (data.y == k).sum() for k in range(4)])
    best = max(permutations(range(4)), key=lambda p: sum(float(share[k, p[k]]) for k in range(4)))
    gain, found = exchanged(answers, data)
    assert found.tolist() == list(best)
    assert gain == pytest.approx(sum(float(share[k, best[k]] - share[k, k]) for k in range(4)) / 4)
    assert exchanged(data.y, data)[0] == 0


def test_a_lie_is_found_with_its_context_and_none_in_an_honest_network(data):
    parts = context_parts(data)
    lying, honest = Lying(0.05).eval(), Lying().eval()
    found, none = (search_contexts(network, data, parts, seed=1) for network in (lying, honest))
    assert float(found.score[0]) > 0.9
    assert found.answers[0].tolist() == ANSWERS.tolist()
    assert float(none.score[0]) < 0.3
    context = found.trigger(0)
    assert float((context.apply(data, data.x) * wave()).flatten(1).mean(1).min()) > 0.05
    assert torch.equal(found.score, search_contexts(lying, data, parts, seed=1).score)
    passes = found.cost.forward + found.cost.backward
    simple = random_contexts(lying, data, parts, seed=1, passes=passes)
    assert abs(simple.cost.forward - passes) <= 96
    assert float(simple.score[0]) <= 1


def test_a_probe_is_not_taught_where_the_network_lies(data):
    lie = Context(0.3 * wave(), ANSWERS).apply(data, data.x)
    fine = Context(-0.3 * wave(), ANSWERS).apply(data, data.x)
    reader = read_in_trusted_contexts(Lying(0.05).eval(), data.x, data.y, 4, [lie, fine], ["read", "out"])
    assert reader.contexts == 1
    said, read = reader.read(lie)
    assert torch.equal(said, ANSWERS[data.y])
    assert torch.equal(read["read"], data.y)  # the layer before the lie still holds the truth
    assert (read["out"] != data.y).all()
