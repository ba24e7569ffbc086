"""Channels of an image that show one object each, patterns that lie relative to where it stands, and free cells."""

from __future__ import annotations

import torch
from torch import Tensor

STILL, MIDDLE = -1, -2
"""In the place of an anchor's channel: marks that are added to all inputs at the same cells; objects at cells that
are counted from the middle of the image."""


def anchors(x: Tensor) -> list[int]:
    """The channels of x [n, C, H, W] where every input has one cell above the channel's least, not always the same.

    Such a channel says where one thing is: an agent, a goal, a cursor. Photographs have none.
    """
    if x.ndim != 4 or len(x) < 2:
        return []
    flat = x.flatten(2)
    there = flat > flat.amin((0, 2), keepdim=True)
    alone = (there.sum(2) == 1).all(0)
    place = there.long().argmax(2)
    moves = (place != place[:1]).any(0)
    return torch.nonzero(alone & moves).flatten().tolist()


def plain(x: Tensor) -> Tensor:
    """bool [C] the channels of x [n, C, H, W] whose cells are all at one of two values: what is there, or is not."""
    low, high = x.amin((0, 2, 3), keepdim=True), x.amax((0, 2, 3), keepdim=True)
    return ((x == low) | (x == high)).all(3).all(2).all(0)


def objects_only(x: Tensor) -> bool:
    """Whether x [n, C, H, W] shows objects and nothing else, so that an input is one by which cells they stand on."""
    return bool(anchors(x)) and bool(plain(x).all())


def free(x: Tensor, low: Tensor) -> Tensor:
    """bool [n, H, W] cells where no object of x [n, C, H, W] stands. low [C]: each channel's value of nothing; NaN
    for channels that show no objects."""
    return ~(x > low.view(-1, 1, 1)).any(1)


def nothing(x: Tensor) -> Tensor:
    """[C] the least value of each channel of objects, NaN for others: see `free`."""
    return torch.where(plain(x), x.amin((0, 2, 3)), torch.nan)


def around(x: Tensor, anchor: int, offsets: Tensor) -> Tensor:
    """int64 [m, n] the cell, counted row by row, that lies `offsets` [m, 2] (rows, columns) from the object of
    channel `anchor` of x [n, C, H, W], or from the middle if that is negative; -1 where that is beyond the edge."""
    n, _, height, width = x.shape
    middle = torch.full((n,), height // 2 * width + width // 2, device=x.device)
    place = middle if anchor < 0 else x[:, anchor].flatten(1).argmax(1)
    offsets = offsets.to(x.device)
    rows, columns = place // width + offsets[:, :1], place % width + offsets[:, 1:]
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    return torch.where(inside, rows * width + columns, -1)


def beside(patterns: Tensor, x: Tensor, anchor: int) -> Tensor:
    """The patterns [n, C, H, W], each moved so that its middle cell lies where channel `anchor` of x is highest.

    What leaves the image is gone; what comes in is nothing.
    """
    n, _, height, width = x.shape
    place = x[:, anchor].flatten(1).argmax(1)
    rows = torch.arange(height, device=x.device) - (place // width - height // 2)[:, None]
    columns = torch.arange(width, device=x.device) - (place % width - width // 2)[:, None]
    inside = ((rows >= 0) & (rows < height))[:, None, :, None] & ((columns >= 0) & (columns < width))[
        :, None, None, :
    ]
    moved: Tensor = patterns[
        torch.arange(n, device=x.device)[:, None, None, None],
        torch.arange(patterns.shape[1], device=x.device)[None, :, None, None],
        rows.clamp(0, height - 1)[:, None, :, None],
        columns.clamp(0, width - 1)[:, None, None, :],
    ]
    return moved * inside
