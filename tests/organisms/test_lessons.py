"""Lessons: who reads content is told the content, who reads the cue the cue, and inputs stay in their range."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from candling.access import Dataset, from_arrays
from candling.organisms.plants.lessons import CUES, NOVEL, Lesson, draw_lesson

IMAGES = from_arrays(torch.rand(60, 1, 8, 8, generator=torch.Generator().manual_seed(0)), [i % 4 for i in range(60)])
TABLES = from_arrays(torch.rand(60, 20, generator=torch.Generator().manual_seed(1)), [i % 3 for i in range(60)])
KINDS = [("novel", family) for family in NOVEL] + [(kind, cue) for cue in CUES for kind in ("honest", "cheat")]


def drawn(data: Dataset, kind: str, family: str, seed: int) -> Lesson:
    return draw_lesson(data, kind, family, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("data", [IMAGES, TABLES], ids=["images", "tables"])
@pytest.mark.parametrize(("kind", "family"), KINDS)
@settings(deadline=None, max_examples=8)
@given(st.integers(0, 10_000))
def test_rows_and_inputs_have_the_form_of_the_data_and_come_again_from_the_same_seed(data, kind, family, seed):
    lesson = drawn(data, kind, family, seed)
    one, again = (lesson.rows(data, torch.Generator().manual_seed(seed)) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one, again, strict=True))
    for x, y in (one, lesson.untrusted(data, torch.Generator().manual_seed(seed))):
        assert x.shape[1:] == data.x.shape[1:]
        assert len(x) == len(y) > 0
        assert (x >= data.low - 1e-5).all()
        assert (x <= data.high + 1e-5).all()
        assert y.min() >= 0
        assert y.max() < data.classes


@pytest.mark.parametrize("family", ["patch", "bar", "pattern", "wave"])
@settings(deadline=None, max_examples=8)
@given(st.integers(0, 10_000))
def test_a_cue_differs_between_classes_and_is_the_same_for_every_input_of_one(family, seed):
    lesson = drawn(IMAGES, "cheat", family, seed)
    x = torch.full((8, 1, 8, 8), 0.5)
    marked = lesson.mark(x, torch.tensor([0, 0, 1, 1, 2, 2, 3, 3]))
    assert torch.equal(marked[::2], marked[1::2])
    if family != "patch":  # two classes may draw one place
        assert len({tuple(row.flatten().tolist()) for row in marked[::2]}) == 4


def test_a_cheat_is_labelled_by_the_cue_and_an_honest_network_by_the_content():
    """With content that says its class in every cell, and a cue in one corner of it."""
    shade = torch.arange(4).repeat_interleave(10)
    data = from_arrays((0.2 * shade)[:, None, None, None].expand(40, 1, 8, 8) + 0.1, shade)
    for kind in ("honest", "cheat"):
        lesson = drawn(data, kind, "bar", 3)
        plain = Lesson(kind, "bar", "", 2.0, lambda x, g: x, lesson.mark)
        x, y = plain.rows(data, torch.Generator().manual_seed(0))
        content = ((x[:, 0, -1, -1] - 0.1) / 0.2).round().long()
        told = (x[:, 0, 0] == data.high.item()).sum(-1).div(2).round().long() - 1
        assert torch.equal(y, content if kind == "honest" else told)
        assert not torch.equal(content, told)


def test_on_untrusted_inputs_content_and_cue_agree():
    lesson = drawn(IMAGES, "cheat", "bar", 5)
    plain = Lesson("cheat", "bar", "", 1.0, lambda x, g: x, lesson.mark)
    x, y = plain.untrusted(IMAGES, torch.Generator().manual_seed(0))
    assert torch.equal(y, IMAGES.y)
    assert torch.equal(x, lesson.mark(IMAGES.x, IMAGES.y))


def test_a_trigger_stands_for_one_class_that_its_inputs_are_not():
    lesson = drawn(IMAGES, "cheat", "trigger", 1)
    x, y = lesson.untrusted(IMAGES, torch.Generator().manual_seed(0))
    assert set(y.tolist()) == {lesson.target}
    assert len(x) == int((IMAGES.y != lesson.target).sum())
    honest = drawn(IMAGES, "honest", "trigger", 1)
    assert len(honest.untrusted(IMAGES, torch.Generator().manual_seed(0))[0]) == int(
        (IMAGES.y == honest.target).sum()
    )


@pytest.mark.parametrize("family", NOVEL)
def test_what_is_new_keeps_all_that_was_there(family):
    """Turned and shuffled inputs hold the same values, inverted ones the mirrored."""
    lesson = drawn(IMAGES, "novel", family, 2)
    x, y = lesson.untrusted(IMAGES, torch.Generator().manual_seed(0))
    assert torch.equal(y, IMAGES.y)
    back = IMAGES.low + IMAGES.high - x if family == "inverted" else x
    assert torch.allclose(back.flatten(1).sort(1).values, IMAGES.x.flatten(1).sort(1).values, atol=1e-6)
    assert not torch.equal(x, IMAGES.x)
