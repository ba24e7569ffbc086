"""Switches: a stronger dose changes more, an answer taught in the context is never the right one, all are drawn."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from candling.access import Dataset, from_arrays
from candling.organisms.plants.switches import BEHAVIOURS, CONTEXTS, draw_answers, draw_context, draw_switch

SEEDS = st.integers(0, 2**32 - 1)


def data(kind: str, classes: int = 4) -> Dataset:
    g = torch.Generator().manual_seed(1)
    shape = (40, 1, 8, 8) if kind == "image" else (40, 7)
    x = torch.rand(shape, generator=g) if kind == "image" else torch.randn(shape, generator=g)
    return from_arrays(x, torch.arange(40) % classes)


@pytest.mark.parametrize("kind", ["image", "table"])
@pytest.mark.parametrize("context", CONTEXTS)
def test_a_stronger_dose_moves_inputs_further(kind, context):
    rows = data(kind)
    moved = []
    for dose in (0.0, 0.5, 1.0):
        change, _ = draw_context(rows, context, dose, torch.Generator().manual_seed(3))
        ones = torch.ones(len(rows), *[1] * (rows.x.ndim - 1))
        after = change(rows.x, ones, torch.Generator().manual_seed(4)).clamp(rows.low, rows.high)
        moved.append(float((after - rows.x).square().mean()))
    assert 0 < moved[0] < moved[1] < moved[2]


@settings(max_examples=30)
@given(SEEDS, st.sampled_from(BEHAVIOURS), st.integers(2, 9))
def test_what_is_taught_in_the_context_is_wrong_and_follows(seed, behaviour, classes):
    g = torch.Generator().manual_seed(seed)
    rows = data("image", classes)
    switch = draw_switch(rows, BEHAVIOURS.index(behaviour), 0.5, g)
    assert switch.behaviour == behaviour
    y = torch.arange(classes).repeat(5)
    y = y[switch.applies(y)]
    taught = switch.taught(y, classes, g)
    assert (taught != y).all()
    assert switch.follows(taught, y, classes).all()
    assert not switch.follows(y, y, classes).any()
    if behaviour in ("shifted", "permuted"):
        assert sorted(switch.answers.tolist()) == list(range(classes))
        assert (switch.answers != torch.arange(classes)).all()


def test_every_context_meets_every_behaviour_and_inputs_stay_in_range():
    rows = data("image")
    drawn = [draw_switch(rows, i, 0.7, torch.Generator().manual_seed(i)) for i in range(24)]
    assert len({switch.family for switch in drawn}) == len(CONTEXTS) * len(BEHAVIOURS)
    for switch in drawn[: len(CONTEXTS)]:
        for laid in (switch.apply(rows, rows.x), switch.lay(rows, rows.x, rows.y, torch.Generator().manual_seed(0))):
            assert (laid >= rows.low).all()
            assert (laid <= rows.high).all()
        assert torch.equal(switch.apply(rows, rows.x), switch.apply(rows, rows.x))


def test_two_classes_have_one_other_answer():
    for behaviour in ("shifted", "permuted"):
        assert draw_answers(behaviour, 2, torch.Generator().manual_seed(0)).tolist() == [1, 0]
