"""Objects as marks: of each channel, a cell for each class, beside an object that every input shows, or lying still.

Question: none by itself; what `cues` searches among where inputs show objects.
Source: a universal targeted perturbation (1610.08401) of one cell: objects are there or not, inside the image, on a
    cell where none stands, so that marks have no size, and what tells networks apart is how many answers follow.
Inputs: data x [n, C, H, W] with channels that show one object each (see `maths.anchors`); a channel; classes told
    [K]. A row counts for a place and a class where the object can stand there and the class is wrong.
Cost: `object_passes` for each channel.
Known failures: what only several objects tell, or one far away alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from candling.access import Dataset
from candling.maths.anchors import MIDDLE, anchors, around, free, nothing, objects_only
from candling.techniques.search.contract import CueSet

NEAR = 2
"""Cells in rows and columns from the object that another one lies beside."""

_ROWS = 120  # that each mark is laid on
_AT_ONCE = 2048  # inputs in one pass
_LEAST = 0.01  # share that counts where none follow, and where all do


@dataclass(frozen=True)
class Places:
    """Where marks may lie: cells from the object of a channel, or (MIDDLE) from the middle of the image."""

    anchor: int
    offsets: Tensor
    """int64 [m, 2] rows and columns"""


def places(data: Dataset) -> list[Places]:
    """Beside each object that stands alone; lying still too, where inputs show objects and nothing else."""
    if data.kind != "image":
        return []
    height, width = data.x.shape[2:]
    span = torch.arange(-NEAR, NEAR + 1)
    near = torch.cartesian_prod(span, span)
    found = [Places(anchor, near[near.abs().sum(1) > 0]) for anchor in anchors(data.x)]
    if objects_only(data.x):
        rows, columns = torch.arange(height) - height // 2, torch.arange(width) - width // 2
        found.append(Places(MIDDLE, torch.cartesian_prod(rows, columns)))
    return found


def laid_on(data: Dataset, g: torch.Generator) -> Dataset:
    """The rows that objects are laid on."""
    return data.take(torch.randperm(len(data), generator=g)[: min(_ROWS, len(data))])


def object_passes(data: Dataset) -> int:
    """Inputs seen in the search of one channel."""
    return sum(len(each.offsets) for each in places(data)) * min(_ROWS, len(data))


def shares(network: nn.Module, rows: Dataset, channel: int, where: Places, told: Tensor) -> Tensor:
    """[K, m] of the rows where an object can stand there and each class told [K] is wrong, those answered so."""
    x = rows.x
    cells = around(x, where.anchor, where.offsets)
    open_ = free(x, nothing(x)).flatten(1)
    lies = (cells >= 0) & open_.gather(1, cells.clamp(min=0).T).T
    answers = torch.cat(
        [answers_to(network, rows, channel, block) for block in cells.split(max(1, _AT_ONCE // len(x)))]
    )
    found = []
    for label in told.tolist():
        counts = lies & rows.wrong(torch.full_like(rows.y, label))
        found.append(((answers == label) & counts).sum(1) / counts.sum(1).clamp(min=1))
    return torch.stack(found).cpu().double()


def answers_to(network: nn.Module, rows: Dataset, channel: int, cells: Tensor) -> Tensor:
    """int64 [m, n] to each row with one more object, on the cells [m, n]; none where that is -1."""
    m, n = cells.shape
    x = rows.x.repeat(m, 1, 1, 1)
    flat = x[:, channel].flatten(1)
    high = torch.where(cells >= 0, rows.high.flatten()[0], -math.inf).reshape(-1, 1)
    flat.scatter_reduce_(1, cells.clamp(min=0).reshape(-1, 1), high.to(flat.dtype), "amax")
    x[:, channel] = flat.view(-1, *x.shape[2:])
    with torch.no_grad():
        answers: Tensor = network(x).argmax(-1).view(m, n)
    return answers


def best_objects(
    network: nn.Module, rows: Dataset, channel: int, at: list[Places], told: Tensor
) -> tuple[float, Tensor, int]:
    """Mean share of the answers that follow, marks [K, *input] in input units, and the anchor that does best."""
    found = []
    for where in at:
        share = shares(network, rows, channel, where, told)
        followed, marks = assigned(rows, channel, where, share)
        found.append((followed, marks, where.anchor))
    return max(found, key=lambda each: each[0])


def assigned(rows: Dataset, channel: int, where: Places, share: Tensor) -> tuple[float, Tensor]:
    """The best assignment of different places to classes; where places are fewer, some classes have none."""
    labels, chosen = linear_sum_assignment(-share.numpy())
    marks = torch.zeros(len(share), *rows.x.shape[1:])
    for label, place in zip(labels, chosen, strict=True):
        marks[label] = _object(rows, channel, where.offsets[place])
    return float(share[labels, chosen].sum()) / len(share), marks


def score(followed: float) -> float:
    """Logarithm of the odds, so that a few answers in a clean network and many in another are told apart alike."""
    return math.log((followed + _LEAST) / (1 - followed + _LEAST))


def random_objects(
    network: nn.Module, rows: Dataset, told: Tensor, passes: int, g: torch.Generator
) -> tuple[float, Tensor, int]:
    """As many objects as the passes allow, in channels and places drawn at random: see `best_objects`."""
    at, m = places(rows), max(len(told), passes // len(rows))
    where = at[int(torch.randint(len(at), (), generator=g))]
    offsets = where.offsets[torch.randint(len(where.offsets), (m,), generator=g)]
    channels = torch.randint(rows.x.shape[1], (m,), generator=g).sort().values
    here = [Places(where.anchor, offsets[channels == channel]) for channel in channels.unique()]
    share = [shares(network, rows, int(c), each, told) for c, each in zip(channels.unique(), here, strict=True)]
    labels, chosen = linear_sum_assignment(-torch.cat(share, 1).numpy())
    marks = torch.zeros(len(told), *rows.x.shape[1:])
    for label, place in zip(labels, chosen, strict=True):
        marks[label] = _object(rows, int(channels[place]), offsets[place])
    return float(torch.cat(share, 1)[labels, chosen].sum()) / len(told), marks, where.anchor


def random_objects_like(cues: CueSet, data: Dataset, g: torch.Generator) -> CueSet:
    """Objects of another channel, if there is one, beside the same object, in places drawn at random."""
    own = set(torch.nonzero(cues.patterns)[:, 1].tolist())
    others = [channel for channel in range(data.x.shape[1]) if channel not in own] or sorted(own)
    channel = others[int(torch.randint(len(others), (), generator=g))]
    where = next(each for each in places(data) if each.anchor == cues.anchor)
    order = torch.randperm(len(where.offsets), generator=g)
    marks = torch.zeros_like(cues.patterns, device="cpu")
    for i, label in enumerate(torch.nonzero(cues.patterns.flatten(1).any(1)).flatten().tolist()):
        marks[label] = _object(data, channel, where.offsets[order[i % len(order)]])
    return CueSet(marks, cues.anchor)


def _object(data: Dataset, channel: int, offset: Tensor) -> Tensor:
    """[*input] one cell of a channel, so far from the middle."""
    mark = torch.zeros(data.x.shape[1:])
    row, column = (n // 2 + int(by) for n, by in zip(mark.shape[1:], offset, strict=True))
    mark[channel, row, column] = float(data.high.max() - data.low.min())
    return mark
