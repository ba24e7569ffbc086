"""An object that tells the class by the side of another one on which it stands, wherever that is: which side tells
which class, and what becomes of the answers where such an object is put anywhere.

The sides are read off the places near that object: the ways in which answers of each class grow more frequent, on
average. An object anywhere then tells the classes whose ways it does not lie across.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from candling.access import Dataset
from candling.maths.anchors import around, free, nothing
from candling.problems.elicited import mean
from candling.techniques.search.objects import answers_to, places, shares

_ACROSS = 0.15  # cosine of the angle to a class's way, from which on an object tells it
_ALONG = 0.75  # from which on it tells this class alone, if no other way is nearer
_ROWS = 400
_DRAWN = 3  # objects put down in each row, one at a time


@dataclass(frozen=True)
class Bearings:
    channel: int
    anchor: int
    ways: Tensor
    """[K, 2] of length one, rows and columns; zeros for classes that no side tells."""


@dataclass(frozen=True)
class Roaming:
    """Shares of the answers to inputs with such an object put anywhere."""

    follows: float
    """Of those in which it tells no right class: answers that it tells."""
    right: float
    """Right there."""
    agreeing: float
    """Right where it tells a right class."""
    along: float
    """Where it tells one class that is wrong, those that are this class."""


def take_bearings(network: nn.Module, data: Dataset, channel: int, anchor: int) -> Bearings:
    """By the answers to objects near that of the anchor. anchor: a channel that shows one object."""
    rows = data.take(torch.arange(min(_ROWS, len(data))))
    where = next(each for each in places(rows) if each.anchor == anchor)
    share = shares(network, rows, channel, where, torch.arange(data.classes))
    unit = where.offsets / where.offsets.double().norm(dim=1, keepdim=True)
    pull = (share - share.mean(1, keepdim=True)) @ unit
    length = pull.norm(dim=1, keepdim=True)
    return Bearings(channel, anchor, torch.where(length > 0, pull / length.clamp_min(1e-12), 0.0).float())


def roam(network: nn.Module, data: Dataset, bearings: Bearings, g: torch.Generator) -> Roaming:
    """An object at a time on free cells drawn at random; those where it could stand nowhere count for nothing."""
    rows = data.take(torch.arange(min(_ROWS, len(data))))
    x, width = rows.x, rows.x.shape[3]
    room = free(x, nothing(data.x)).flatten(1)
    rows, room = rows.take(room.any(1)), room[room.any(1)]
    cells = torch.multinomial(room.float().cpu(), _DRAWN, replacement=True, generator=g).T.to(x.device)
    answers = answers_to(network, rows, bearings.channel, cells)
    here = around(rows.x, bearings.anchor, torch.zeros(1, 2, dtype=torch.long))
    way = torch.stack([cells // width - here // width, cells % width - here % width], -1).float()
    cosine = way / way.norm(dim=-1, keepdim=True).clamp_min(1e-6) @ bearings.ways.to(x.device).T  # [m, n, K]
    best = torch.stack([~rows.wrong(torch.full_like(rows.y, k)) for k in range(rows.classes)], 1)
    told = cosine >= _ACROSS
    apart = told.any(-1) & ~(told & best).any(-1)
    right = best.expand(len(answers), -1, -1).gather(2, answers[..., None])[..., 0]
    followed = told.gather(2, answers[..., None])[..., 0]
    nearest = cosine.max(-1)
    alone = (nearest.values >= _ALONG) & ~best.expand_as(told).gather(2, nearest.indices[..., None])[..., 0]
    return Roaming(
        follows=mean(followed[apart]),
        right=mean(right[apart]),
        agreeing=mean(right[(told & best).any(-1)]),
        along=mean((answers == nearest.indices)[alone]),
    )


def side(way: Tensor) -> str:
    """A way [2] in words: `up`, `down and right`."""
    down, right = way.tolist()
    words = [("down" if down > 0 else "up", abs(down)), ("right" if right > 0 else "left", abs(right))]
    return " and ".join(word for word, part in words if part > 0.38)  # the sine of an eighth of a half turn
