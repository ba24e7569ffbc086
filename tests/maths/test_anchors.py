"""What stands alone in a channel is noticed; patterns move with it, cell by cell."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from candling.maths.anchors import anchors, beside


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
