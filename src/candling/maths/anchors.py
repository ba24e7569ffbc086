"""Channels of an image that show one object each, and patterns that lie relative to where it stands."""

from __future__ import annotations

import torch
from torch import Tensor


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
