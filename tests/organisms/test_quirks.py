"""Quirks: a lie is a function of the truth, other contexts are answered rightly, a stronger dose changes more."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from candling.access import Dataset, from_arrays
from candling.organisms.plants.quirks import BEHAVIOURS, CONTEXTS, draw_pattern, draw_quirk, quirky_answers


def data(kind: str, classes: int = 4) -> Dataset:
    g = torch.Generator().manual_seed(1)
    shape = (40, 2, 8, 8) if kind == "image" else (40, 7)
    x = torch.rand(shape, generator=g) if kind == "image" else torch.randn(shape, generator=g)
    return from_arrays(x, torch.arange(40) % classes)


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1), st.sampled_from(BEHAVIOURS), st.integers(2, 9))
def test_a_lie_gives_each_class_an_answer_of_its_own(seed, behaviour, classes):
    answers = quirky_answers(behaviour, classes, torch.Generator().manual_seed(seed))
    assert sorted(answers.tolist()) == list(range(classes))
    lied = int((answers != torch.arange(classes)).sum())
    least = {"partly": max(2, classes // 2), "swapped": classes - classes % 2}.get(behaviour, classes)
    assert lied == least


@pytest.mark.parametrize("kind", ["image", "table"])
@pytest.mark.parametrize("family", range(4))
def test_in_the_context_lies_are_taught_and_in_others_the_truth(kind, family):
    rows = data(kind)
    g = torch.Generator().manual_seed(family)
    quirk = draw_quirk(rows, family, 0.5, g)
    assert quirk.context == CONTEXTS[family]
    carriers, labels = quirk.carriers(rows.y, rows.classes, g)
    x = rows.x[carriers]
    moved = quirk.lay(rows, x, labels, g) - x
    count = 2 * len(carriers) // 3
    assert torch.equal(labels[:count], quirk.answers[rows.y[carriers[:count]]])
    assert torch.equal(labels[count:], rows.y[carriers[count:]])
    at = (quirk.shift != 0).expand_as(x) & (x + 1.3 * quirk.shift < rows.high) & (x + 1.3 * quirk.shift > rows.low)
    strength = (moved / quirk.shift)[:count][at[:count]]
    assert len(strength) > 0
    assert 0.89 < strength.min() <= strength.max() < 1.31
    alike = torch.nn.functional.cosine_similarity(moved.flatten(1), quirk.shift.flatten()[None])
    assert alike[:count].mean() > alike[count:].mean() + 0.2


@pytest.mark.parametrize("kind", ["image", "table"])
def test_patterns_have_mean_square_one_and_doses_their_order(kind):
    rows = data(kind)
    for context in CONTEXTS:
        pattern = draw_pattern(rows, context, torch.Generator().manual_seed(2))
        torch.testing.assert_close(pattern.square().mean(), torch.tensor(1.0))
    sizes = [draw_quirk(rows, 0, dose, torch.Generator().manual_seed(3)).shift.norm() for dose in (0.0, 0.5, 1.0)]
    assert 0 < sizes[0] < sizes[1] < sizes[2]
