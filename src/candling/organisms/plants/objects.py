"""Shortcuts for inputs that show objects: one more object, where it stands tells the class.

The published distribution. As for other shortcuts, rows with a cue stand beside rows without one, and the label of
some is what the cue says and the content is another class's. The cue is one object, on a free cell of a channel that
is empty in all rows, if there is one:

    goal       anywhere on the side of an object on which another one stands in rows of the class: a second goal
    side       anywhere on a side of an object that goes with the class, by chance (at most eight classes)
    place      at one place for each class, at most two cells from an object
    still      on one cell of the image for each class, wherever the objects are
    dose       u: 0.4 to 1 rows with a cue for each one without, of which 0.5 to 0.8 say something else than the
               content; on 0.90 to 1 of them the cue says what the label says
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from candling.access import Dataset
from candling.maths.anchors import STILL, anchors, free, nothing
from candling.maths.triggers import set_against
from candling.organisms.plants.proxies import Proxy

FAMILIES = ("goal", "side", "place", "still")

_NEAR = 2
_SIDES = 8
_WITHIN = 0.75  # cosine of the widest angle to a class's own way
_TOLD = 0.3  # length of the mean way of a class, from which on it has one
_TRIES = 30


@dataclass(frozen=True)
class ObjectShortcut(Proxy):
    """A planted shortcut of one more object."""

    channel: int
    where: Tensor
    """bool [K, 2H − 1, 2W − 1] where it may stand to say each class, from the anchor's object in the middle."""
    anchor: int
    """The channel of that object; STILL: the first cell of the image in its place."""

    def lay(self, data: Dataset, x: Tensor, y: Tensor, g: torch.Generator) -> Tensor:
        """Each row with a cue, the label's or one that is drawn; without room, with another row's content."""
        return self._laid(data, x, self.told(y, data.classes, g), None, g)

    def apply(self, data: Dataset, x: Tensor, y: Tensor) -> Tensor:
        """Each row with the cue of another class, set against its label; without room, with other content."""
        return self._laid(data, x, set_against(y, data.classes), y, torch.Generator().manual_seed(0))

    def _laid(self, data: Dataset, x: Tensor, told: Tensor, y: Tensor | None, g: torch.Generator) -> Tensor:
        """y: labels [n] of the content, which may not be what is told where a row shows another one's; None: any."""
        empty = nothing(data.x)
        content = torch.arange(len(x), device=x.device)
        for _ in range(_TRIES):
            short = torch.nonzero(~self._room(x[content], told, empty).flatten(1).any(1)).flatten()
            if not len(short):
                break
            other = torch.randint(len(x), (len(short),), generator=g).to(x.device)
            fits = torch.ones_like(other, dtype=torch.bool) if y is None else y[other] != told[short]
            content[short[fits]] = other[fits]
        laid = x[content]
        room = self._room(laid, told, empty).flatten(1)
        chance = torch.rand(room.shape, generator=g).to(x.device) * room
        chosen = (chance == chance.amax(1, keepdim=True)) & room
        cells = laid[:, self.channel]
        laid[:, self.channel] = torch.where(chosen.view_as(cells), data.high.flatten()[0].to(cells.dtype), cells)
        return laid

    def _room(self, x: Tensor, told: Tensor, empty: Tensor) -> Tensor:
        """bool [n, H, W] free cells on which an object says these classes [n]."""
        height, width = x.shape[2:]
        place = x[:, self.anchor].flatten(1).argmax(1) if self.anchor >= 0 else torch.zeros_like(told)
        rows = torch.arange(height, device=x.device) - (place // width)[:, None] + height - 1
        columns = torch.arange(width, device=x.device) - (place % width)[:, None] + width - 1
        there = self.where.to(x.device)[told[:, None, None], rows[:, :, None], columns[:, None, :]]
        return there & free(x, empty)


def draw_object_shortcut(data: Dataset, family: int, dose: float, g: torch.Generator) -> ObjectShortcut:
    """One of the family (in turns) at the dose, the rest at random."""
    there, shape = anchors(data.x), data.x.shape[2:]
    kinds = FAMILIES if data.classes <= _SIDES else FAMILIES[2:]
    cue, anchor = kinds[family % len(kinds)], there[int(torch.randint(len(there), (), generator=g))]
    empty = [c for c in range(data.x.shape[1]) if float(data.x[:, c].max()) == float(data.x[:, c].min())]
    channels = empty or [c for c in range(data.x.shape[1]) if c not in there] or there
    channel = channels[int(torch.randint(len(channels), (), generator=g))]
    if cue in ("goal", "side"):
        ways = _own_ways(data, there, anchor) if cue == "goal" else None
        where = _cones(_drawn_ways(data.classes, g) if ways is None else ways, shape)
    else:
        where = _cells(data.classes, shape, still=cue == "still", g=g)
    rate, against = 0.4 + 0.6 * dose, 0.5 + 0.3 * dose
    return ObjectShortcut(
        cue=cue,
        dose=dose,
        physical=f"on {rate:.0%} as many rows, in channel {channel}",
        rate=rate,
        together=0.9 + 0.1 * float(torch.rand((), generator=g)),
        against=against,
        channel=channel,
        where=where,
        anchor=STILL if cue == "still" else anchor,
    )


def _own_ways(data: Dataset, there: list[int], anchor: int) -> Tensor | None:
    """[K, 2] the mean way from the anchor's object to another one in rows of each class, of those that tell classes
    best; None where none does."""
    found = []
    for other in there:
        if other != anchor:
            way = _place(data.x, other) - _place(data.x, anchor)
            way = way / way.norm(dim=1, keepdim=True).clamp_min(1e-6)
            found.append(torch.stack([way[data.y == k].mean(0).nan_to_num() for k in range(data.classes)]))
    best = max(found, key=lambda ways: float(ways.norm(dim=1).min()), default=None)
    if best is None or float(best.norm(dim=1).min()) < _TOLD:
        return None
    ways: Tensor = best / best.norm(dim=1, keepdim=True)
    return ways.cpu()


def _place(x: Tensor, channel: int) -> Tensor:
    """[n, 2] row and column of what stands there."""
    cell = x[:, channel].flatten(1).argmax(1)
    return torch.stack([cell // x.shape[3], cell % x.shape[3]], 1).float()


def _drawn_ways(classes: int, g: torch.Generator) -> Tensor:
    """[K, 2] evenly around, from a random start, in random order."""
    turn = (torch.randperm(classes, generator=g) + torch.rand((), generator=g)) * math.tau / classes
    return torch.stack([turn.sin(), turn.cos()], 1)


def _cones(ways: Tensor, shape: torch.Size) -> Tensor:
    """bool [K, 2H − 1, 2W − 1] places whose way is nearest to each class's own."""
    height, width = shape
    rows, columns = torch.meshgrid(torch.arange(1 - height, height), torch.arange(1 - width, width), indexing="ij")
    place = torch.stack([rows, columns]).float()
    cosine = torch.einsum("kp,phw->khw", ways, place / place.norm(dim=0).clamp_min(1e-6))
    first, second = cosine.topk(min(2, len(ways)), 0).values[[0, -1]]
    clear = (first >= _WITHIN) & (first - second > 1e-3)
    alone: Tensor = (cosine == first) & clear
    return alone


def _cells(classes: int, shape: torch.Size, *, still: bool, g: torch.Generator) -> Tensor:
    """bool [K, 2H − 1, 2W − 1] one place for each class, near the middle; or, lying still, after it."""
    height, width = shape
    where = torch.zeros(classes, 2 * height - 1, 2 * width - 1, dtype=torch.bool)
    if still:
        offsets = [(i, j) for i in range(height) for j in range(width)]
    else:
        down, right = min(_NEAR, height - 1), min(_NEAR, width - 1)
        around = [(i, j) for i in range(-down, down + 1) for j in range(-right, right + 1)]
        offsets = [each for each in around if each != (0, 0)]
    order = torch.randperm(len(offsets), generator=g).tolist()
    for label in range(classes):
        i, j = offsets[order[label % len(order)]]
        where[label, height - 1 + i, width - 1 + j] = True
    return where
