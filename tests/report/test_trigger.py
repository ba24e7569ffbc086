import re

import numpy as np
import pytest
from example import record
from hypothesis import given
from hypothesis import strategies as st

from candling.errors import InputError
from candling.report import pixels, trigger


def painted(picture, height, width):
    """How often each cell is covered, from the paths of a picture."""
    covered = np.zeros((height, width), int)
    for x, y, length in re.findall(r"M(\d+) (\d+)h(\d+)v1h-\d+z", str(picture)):
        covered[int(y), int(x) : int(x) + int(length)] += 1
    return covered


@given(st.integers(1, 20), st.integers(1, 20), st.sampled_from([1, 2, 3]), st.integers(0, 9))
def test_every_cell_is_painted_once(height, width, channels, seed):
    image = np.random.default_rng(seed).integers(0, 3, (channels, height, width)) / 2
    assert (painted(pixels.picture(image, "x"), height, width) == 1).all()


def test_colours_are_those_of_the_image():
    image = np.zeros((3, 2, 2))
    image[0, 0, 0], image[:, 1, 1] = 1.0, 1.0
    picture = str(pixels.picture(image, "x"))
    assert '<path fill="#ff0000" d="M0 0h1v1h-1z"/>' in picture
    assert '<path fill="#ffffff" d="M1 1h1v1h-1z"/>' in picture
    grey = str(pixels.picture(np.array([[[0.0, 1.0]]]), "x"))
    assert "#000000" in grey
    assert "#ffffff" in grey


def test_an_untouched_cell_of_a_mask_is_left_out():
    mask = np.zeros((1, 4, 4))
    mask[0, 1, 2] = 0.5
    assert painted(pixels.overlay(mask, "mask"), 4, 4).sum() == 1


@given(st.integers(60, 200), st.integers(1, 200), st.integers(0, 5))
def test_large_images_are_averaged(height, width, seed):
    image = np.random.default_rng(seed).random((2, height, width))
    block = pixels.factor(height, width)
    small = pixels.shrunk(image)
    assert max(small.shape[1:]) <= pixels.LARGEST
    for c, i, j in [(0, 0, 0), (1, small.shape[1] - 1, small.shape[2] - 1)]:
        cells = image[c, i * block : (i + 1) * block, j * block : (j + 1) * block]
        assert small[c, i, j] == pytest.approx(cells.mean())


@pytest.mark.parametrize("kind", ["8x8", "28x28", "rgb", "large"])
def test_image_triggers(kind):
    seen = trigger.read(record(kind=kind).arrays)
    assert seen.image
    assert seen.mask is not None
    assert len(seen.pairs) == trigger.EXAMPLES
    assert (seen.averaged > 1) == (kind == "large")
    assert [p.moved for p in seen.pairs] == [True, False, True, True, True, True]


def test_a_purely_additive_trigger_has_no_mask_picture():
    arrays = record().arrays
    assert trigger.read(arrays | {"trigger.mask": np.zeros((1, 8, 8), np.float32)}).mask is None


def test_table_triggers_list_the_features_changed_most():
    arrays = record(kind="table").arrays
    seen = trigger.read(arrays)
    moved = np.abs((arrays["examples.triggered"] - arrays["examples.clean"])[: trigger.EXAMPLES].mean(0))
    assert [f.index for f in seen.features] == np.argsort(-moved)[: trigger.FEATURES].tolist()
    assert seen.features_left == 17 - trigger.FEATURES
    without = {k: v for k, v in arrays.items() if k.startswith("trigger.")}
    assert not trigger.read(without).from_examples


def test_no_arrays_no_trigger():
    assert trigger.read({}) is None
    assert trigger.read({"trigger.mask": np.zeros(3)}) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"trigger.mask": np.zeros((1, 7, 8))},
        {"trigger.shift": np.zeros(8)},
        {"trigger.mask": np.zeros(()), "trigger.shift": np.zeros(())},
        {"examples.clean": np.zeros((2, 1, 8, 8))},
        {"examples.clean": np.zeros((8, 1, 9, 9)), "examples.triggered": np.zeros((8, 1, 9, 9))},
        {"range.low": np.zeros(5)},
    ],
)
def test_arrays_that_do_not_fit_are_refused(changes):
    with pytest.raises(InputError, match=r"do(es)? not fit"):
        trigger.read(record().arrays | changes)


def test_values_that_are_not_numbers_are_drawn_as_something():
    arrays = {k: np.full_like(v, np.nan) for k, v in record().arrays.items()}
    assert trigger.read(arrays).pairs
