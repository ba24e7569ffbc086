"""What stands alone in a channel is noticed; patterns move with it, cell by cell."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from candling.maths.anchors import anchors, around, beside, free, nothing, objects_only, plain


@settings(max_examples=50, deadline=None)
@given(st.integers(2, 6), st.integers(2, 6), st.integers(0, 10**6))
def test_a_pattern_lies_on_the_object_and_what_leaves_is_gone(height, width, seed):
    g = torch.Generator().manual_seed(seed)
    x = torch.zeros(5, 2, height, width)
    where = torch.randint(height * width, (5,), generator=g)
    x.view(5, 2, -1)[torch.arange(5), 1, where] = 0.7
    patterns = torch.randn(5, 2, height, width, generator=g)
    moved = beside(patterns, x, 1)
    for i in range(5):
        row, column = divmod(int(where[i]), width)
        for r in range(height):
            for c in range(width):
                a, b = r - row + height // 2, c - column + width // 2
                inside = 0 <= a < height and 0 <= b < width
                assert torch.equal(moved[i, :, r, c], patterns[i, :, a, b] if inside else torch.zeros(2))


def test_only_channels_with_one_object_that_moves_are_anchors():
    x = torch.zeros(6, 5, 4, 4)
    x[torch.arange(6), 0, torch.arange(6) % 4, 1] = 1  # one that moves
    x[:, 1, 2, 2] = 1  # one that never moves
    x[:, 2] = torch.rand(6, 4, 4, generator=torch.Generator().manual_seed(0))  # a picture
    x[1:, 3, 0, 0] = 1  # missing once
    assert anchors(x) == [0]
    assert anchors(x + 5) == [0]
    assert anchors(x[:1]) == anchors(x.flatten(1)) == []


def test_free_cells_are_those_that_no_channel_of_objects_fills():
    x = torch.zeros(4, 3, 3, 3)
    x[torch.arange(4), 0, torch.arange(4) % 3, 1] = 2
    x[:, 1, 0, 0] = 1
    assert objects_only(x)
    expected = (x[:, 0] == 0) & (x[:, 1] == 0)
    assert torch.equal(free(x, nothing(x)), expected)
    x[:, 2] = torch.rand(4, 3, 3, generator=torch.Generator().manual_seed(0))  # a picture fills nothing
    assert plain(x).tolist() == [True, True, False]
    assert not objects_only(x)
    assert torch.equal(free(x, nothing(x)), expected)
    assert not objects_only(torch.zeros(4, 3, 3, 3))


def test_cells_around_an_object_or_the_middle():
    x = torch.zeros(2, 1, 3, 4)
    x[0, 0, 0, 0] = x[1, 0, 2, 3] = 1
    offsets = torch.tensor([[0, 0], [-1, 0], [1, 1]])
    assert around(x, 0, offsets).tolist() == [[0, 11], [-1, 7], [5, -1]]
    assert around(x, -1, offsets).tolist() == [[6, 6], [2, 2], [11, 11]]
