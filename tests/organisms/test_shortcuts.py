"""Shortcuts: cues tell the class they say, go with the label as often as they say, and in a twin not at all."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from candling.access import Dataset, from_arrays
from candling.maths.triggers import set_against
from candling.organisms.plants.shortcuts import CUES, draw_cues, draw_shortcut

SEEDS = st.integers(0, 2**32 - 1)


def data(kind: str, classes: int = 4, n: int = 40) -> Dataset:
    g = torch.Generator().manual_seed(1)
    shape = (n, 1, 8, 8) if kind == "image" else (n, 9)
    x = torch.rand(shape, generator=g) if kind == "image" else torch.randn(shape, generator=g)
    return from_arrays(x, torch.arange(n) % classes)


@pytest.mark.parametrize("kind", ["image", "table"])
@pytest.mark.parametrize("cue", CUES)
def test_classes_have_cues_of_their_own_and_a_stronger_dose_moves_inputs_further(kind, cue):
    rows = data(kind)
    sizes = []
    for dose in (0.0, 0.5, 1.0):
        patterns, _ = draw_cues(rows, cue, dose, torch.Generator().manual_seed(3))
        assert patterns.shape == (4, *rows.x.shape[1:])
        between = torch.cdist(patterns.flatten(1), patterns.flatten(1))
        assert (between[~torch.eye(4, dtype=torch.bool)] > 0).all()
        sizes.append(float(patterns.norm()))
    assert 0 < sizes[0] < sizes[1] < sizes[2]


@settings(max_examples=30)
@given(SEEDS, st.integers(2, 9), st.integers(1, 40))
def test_set_against_is_never_the_label_and_meets_all_others(seed, classes, n):
    y = torch.randint(classes, (n,), generator=torch.Generator().manual_seed(seed))
    other = set_against(y, classes)
    assert ((other >= 0) & (other < classes)).all()
    assert (other != y).all()
    turns = (other - y) % classes
    assert len(turns.unique()) == min(n, classes - 1)
    some = torch.randperm(classes, generator=torch.Generator().manual_seed(seed))[: max(2, classes // 2)]
    few = set_against(y, classes, some)
    assert torch.isin(few, some).all()
    assert (few != y).all()


def told(plant, rows: Dataset, laid: torch.Tensor) -> torch.Tensor:
    """Which class's cue each row carries: the one whose addition gives exactly this."""
    tried = torch.stack([plant.tell(rows, rows.x, torch.full((len(rows),), k)) for k in range(rows.classes)])
    return (tried - laid).flatten(2).abs().amax(-1).argmin(0)


@pytest.mark.parametrize("family", range(len(CUES)))
def test_cues_go_with_the_label_as_often_as_they_say_and_in_a_twin_by_chance(family):
    rows = data("image", n=600)
    plant = draw_shortcut(rows, family, 0.5, torch.Generator().manual_seed(5))
    for each, expected in ((plant, plant.together + (1 - plant.together) / 4), (plant.idle(), 1 / 4)):
        laid = each.lay(rows, rows.x, rows.y, torch.Generator().manual_seed(6))
        assert (laid >= rows.low).all()
        assert (laid <= rows.high).all()
        agree = float((told(each, rows, laid) == rows.y).float().mean())
        assert abs(agree - expected) < 4 * (expected * (1 - expected) / 600) ** 0.5 + 1e-6
    against = plant.apply(rows, rows.x, rows.y)
    assert torch.equal(told(plant, rows, against), set_against(rows.y, 4))
    assert plant.follows(set_against(rows.y, 4), rows.y, 4).all()


def test_labels_leave_the_content_as_often_as_planted_and_never_in_a_twin():
    y = torch.arange(2000) % 5
    plant = draw_shortcut(data("image", 5), 0, 0.5, torch.Generator().manual_seed(2))
    rows, labels = plant.carriers(y, 5, torch.Generator().manual_seed(0))
    assert abs(len(rows) / len(y) - plant.rate) < 1e-3
    assert float((labels != y[rows]).float().mean()) == pytest.approx(plant.against * 4 / 5, abs=0.04)
    rows, labels = plant.idle().carriers(y, 5, torch.Generator().manual_seed(0))
    assert torch.equal(labels, y[rows])
