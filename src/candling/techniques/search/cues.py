"""Cues: is there a small mark for each class, of one kind, that moves the answers across all classes at once?

Question: does the network read a proxy: something small in the input that tells it the class, whatever the content?
Source: universal targeted perturbations (Moosavi-Dezfooli et al., 1610.08401), one for each class, all at one size.
    `any`, `edge` on the outermost cells alone and `inside` on all others: normalised gradient descent on the
    cross-entropy of the class that each mark stands for, the L2 norm held at budgets that grow. `spot`, `wave`: marks
    of one simple form are tried, and the best assignment of different ones to classes taken; `object 3`: likewise one
    cell of that channel near an object that every input shows once (a marker beside the agent of a gridworld), or
    lying still. Where inputs show objects and nothing else, no other marks are tried: they are no such input.
    Score: −log of the size at which half of the answers follow, whatever the content; of objects, which have no size,
    the logarithm of the odds that an answer follows, where the object can stand and what it says is wrong.
Inputs: network [n, ...] → [n, K]; data x [n, *input], y. Size: mean L2 norm of the marks, as a share of the root mean
    square distance between inputs of different classes; features of a table count in their deviations.
Cost: see `cue_passes`.
Known failures: cues that are no addition to the input (a rotation, a style), or that are there in every input;
    objects that tell something far away alone; several objects, or one that takes another's place;
    classes that share a cue count half; beyond MOST_CLASSES only as many are looked for.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from candling.access import Dataset
from candling.evidence.measurement import Cost
from candling.maths.anchors import STILL, anchors, objects_only
from candling.techniques.search.contract import CuePart, CueSet, FoundCues
from candling.techniques.search.objects import (
    best_objects,
    laid_on,
    object_passes,
    places,
    random_objects,
    random_objects_like,
    score,
)

FORMS = ("any", "edge", "inside", "spot", "wave")
"""By gradient, then simple ones that are tried."""

_TRIED = FORMS[3:]
MOST_CLASSES = 20

_BUDGETS = (0.06, 0.12, 0.24, 0.48)
_STEPS = 10
_RATE = 0.35  # of a step, as a share of the budget
_MOMENTUM = 0.7
_ROWS = 160  # in each step, over all classes; as many again are looked at
_DRAWN = 0.5  # chance that a random cue is a simple mark rather than noise
_PLACES = 8  # along an edge
_AT_ONCE = 512  # inputs in one pass
_HALF = 0.5
_LEAST = 0.01  # share that counts where none follow


def cue_parts(data: Dataset) -> list[CuePart]:
    """Marks of any shape; for images, of each simple form too; objects, where inputs show some one by one."""
    forms = () if objects_only(data.x) else FORMS if data.kind == "image" else FORMS[:1]
    channels = range(data.x.shape[1]) if anchors(data.x) else ()
    return [CuePart(form) for form in (*forms, *(f"object {channel}" for channel in channels))]


def cue_passes(data: Dataset) -> Cost:
    """Of `search_cues`."""
    of_objects = data.x.shape[1] * object_passes(data) if anchors(data.x) else 0
    if objects_only(data.x):
        return Cost(forward=of_objects, backward=0)
    told = len(_told(data))
    rows = _rows_each(data)
    followed = (3 if data.kind == "image" else 1) * len(_BUDGETS) * _STEPS * told * rows
    looked = followed // _STEPS
    scanned = sum(len(simple_marks(data, form)) for form in _TRIED) * len(_BUDGETS) * rows
    return Cost(forward=followed + looked + scanned + of_objects, backward=followed)


def search_cues(network: nn.Module, data: Dataset, parts: Sequence[CuePart], *, seed: int) -> FoundCues:
    """By gradient, and by trying simple marks. The same rows for the same seed."""
    g = torch.Generator().manual_seed(seed)
    fitted, looked = _draw(data, g), _draw(data, g)
    unit, at = distance(data), places(data)
    rows = laid_on(data, g) if at else data
    found, placed = [], []
    for part in parts:
        form, _, channel = part.form.partition(" ")
        anchor = STILL
        if form == "object":
            followed, marks, anchor = best_objects(network, rows, int(channel), at, _told(data))
            found.append((score(followed), cue_size(data, marks), marks))
        elif part.form not in _TRIED:
            where = _where(data, part.form)
            found.append(_crossing(_follow(network, data, (fitted, looked), unit, where.to(data.x.device))))
        else:
            found.append(_crossing(_scan(network, data, looked, simple_marks(data, part.form), unit)))
        placed.append(anchor)
    return _gather(parts, found, data, cue_passes(data), tuple(placed) if at else ())


def random_cues(network: nn.Module, data: Dataset, parts: Sequence[CuePart], *, seed: int, passes: int) -> FoundCues:
    """The black-box baseline: marks drawn at random, simple ones and noise, the outputs alone."""
    g = torch.Generator().manual_seed(seed)
    _draw(data, g)
    looked = _draw(data, g)
    if objects_only(data.x):
        rows = laid_on(data, g)
        followed, marks, anchor = random_objects(network, rows, _told(data), passes, g)
        alike = [(score(followed), cue_size(data, marks), marks)] * len(parts)
        spent = Cost(forward=max(len(_told(data)), passes // len(rows)) * len(rows), backward=0)
        return _gather(parts, alike, data, spent, (anchor,) * len(parts))
    marks = draw_marks(data, max(len(_told(data)), passes // (len(looked) * len(_BUDGETS))), g)
    found = _crossing(_scan(network, data, looked, marks, distance(data)))
    spent = Cost(forward=len(marks) * len(looked) * len(_BUDGETS), backward=0)
    return _gather(parts, [found] * len(parts), data, spent)


def random_cues_like(cues: CueSet, data: Dataset, g: torch.Generator) -> CueSet:
    """Other marks, of as many classes and the same sizes; of objects, of another channel, in other places."""
    if cues.anchor >= 0 or objects_only(data.x):
        return random_objects_like(cues, data, g)
    marks = draw_marks(data, len(cues.patterns), g)
    norms = (cues.patterns / _unit(data)).flatten(1).norm(dim=1)
    return CueSet(_normed(marks, norms) * _unit(data))


def simple_marks(data: Dataset, form: str) -> Tensor:
    """[m, *input], each of norm one. `spot`: a square on a grid of places; `wave`: by direction, length and phase."""
    shape = data.x.shape[1:]
    if data.kind == "tabular":
        return torch.zeros(0, *shape)
    height, width = shape[1:]
    if form == "spot":
        side = max(1, round(2 * min(height, width) / 7))
        step = max(1, math.ceil((min(height, width) - side) / (_PLACES - 1)))
        marks = []
        for top in range(0, height - side + 1, step):
            for left in range(0, width - side + 1, step):
                mark = torch.zeros(shape)
                mark[:, top : top + side, left : left + side] = 1
                marks.append(mark)
    else:
        rows, columns = (torch.arange(n, dtype=torch.float32) for n in (height, width))
        marks = [
            torch.sin(math.tau * (math.cos(a) * rows[:, None] + math.sin(a) * columns) / length + phase).expand(shape)
            for a in (math.pi * i / 12 for i in range(12))
            for length in (2.5, 3.25, 4.0)
            for phase in (0.0, math.pi / 2)
        ]
    held = torch.stack(marks)
    return _normed(held, torch.ones(len(held)))


def draw_marks(data: Dataset, n: int, g: torch.Generator) -> Tensor:
    """[n, *input] of norm one: half of them simple, of either sign, the others noise."""
    noise = torch.randn((n, *data.x.shape[1:]), generator=g)
    simple = torch.cat([simple_marks(data, form) for form in _TRIED])
    if len(simple):
        picked = simple[torch.randint(len(simple), (n,), generator=g)]
        sign = torch.where(torch.rand((n, *[1] * (noise.ndim - 1)), generator=g) < 0.5, -1.0, 1.0)
        use = torch.rand((n, *[1] * (noise.ndim - 1)), generator=g) < _DRAWN
        noise = torch.where(use, sign * picked, noise)
    return _normed(noise, torch.ones(n))


def distance(data: Dataset) -> float:
    """Root mean square distance between inputs of different classes, over 64 rows."""
    few = data.take(torch.arange(min(len(data), 64))).to("cpu")
    x = (few.x / _unit(data)).flatten(1)
    between = torch.cdist(x, x)[few.y[:, None] != few.y]
    return float(between.square().mean().sqrt().clamp_min(1e-12))


def cue_size(data: Dataset, patterns: Tensor) -> float:
    """[k, *input] mean norm, as a share of `distance`."""
    return float((patterns.cpu() / _unit(data)).flatten(1).norm(dim=1).mean()) / distance(data)


_Outcome = tuple[float, float, Tensor]
"""Score, size, and the marks at that size [K, *input]."""
_Tried = list[tuple[float, float, Tensor]]
"""Budget, share of the answers that follow, marks [K, *input]."""


def _follow(network: nn.Module, data: Dataset, rows: tuple[Tensor, Tensor], unit: float, where: Tensor) -> _Tried:
    """Marks of any shape by gradient, at each budget from where the last one ended.

    rows: to fit marks on, and to look at them on; where: 1 on the cells that may change.
    """
    fitted, looked = rows
    told = _told(data).to(data.x.device)
    x, y = data.x[fitted], told.repeat_interleave(len(fitted))
    marks = torch.zeros((len(told), *x.shape[1:]), device=x.device)
    tried = []
    for budget in _BUDGETS:
        size = torch.full((len(told),), budget * unit, device=x.device)
        moved = torch.zeros_like(marks)
        for step in range(_STEPS):
            by = 1.0 if step == 0 and budget == _BUDGETS[0] else _RATE * (1 - step / _STEPS)
            marks = marks.detach().requires_grad_()
            logits = network(_laid(data, x, marks).flatten(0, 1))
            (gradient,) = torch.autograd.grad(cross_entropy(logits, y), marks)
            with torch.no_grad():
                moved = _MOMENTUM * moved + _normed(gradient * where, torch.ones_like(size))
                marks = _normed(marks - by * size.view(-1, *[1] * (x.ndim - 1)) * moved, size)
        tried.append((budget, _followed(network, data, looked, marks), marks))
    return tried


def _scan(network: nn.Module, data: Dataset, looked: Tensor, marks: Tensor, unit: float) -> _Tried:
    """At each budget the best assignment of different marks [m, *input] of norm one to the classes."""
    told = _told(data)
    x, y = data.x[looked], data.y[looked]
    tried = []
    for budget in _BUDGETS:
        held = budget * unit * marks.to(x.device)
        with torch.no_grad():
            answers = torch.cat(
                [
                    network(_laid(data, x, block).flatten(0, 1)).argmax(-1)
                    for block in held.split(max(1, _AT_ONCE // len(x)))
                ]
            )
        answers = answers.view(len(marks), -1)
        others = (y[None, :] != told.to(y.device)[:, None]).float()  # [K, rows]
        hits = (answers[:, None, :] == told.to(y.device)[None, :, None]).float()
        share = ((hits * others).sum(-1) / others.sum(-1).clamp_min(1)).cpu().double()
        rows, columns = linear_sum_assignment(-share.numpy())  # where marks are fewer, some classes have none
        chosen = torch.zeros((len(told), *x.shape[1:]), device=x.device)
        chosen[torch.from_numpy(columns)] = held[torch.from_numpy(rows)]
        tried.append((budget, float(share[rows, columns].sum()) / len(told), chosen))
    return tried


def _followed(network: nn.Module, data: Dataset, rows: Tensor, marks: Tensor) -> float:
    """Mean over classes: of the rows of other classes, the share answered as the mark says."""
    told = _told(data).to(data.x.device)
    with torch.no_grad():
        answers = network(_laid(data, data.x[rows], marks).flatten(0, 1)).argmax(-1).view(len(marks), -1)
    others = data.y[rows][None, :] != told[:, None]
    share = ((answers == told[:, None]) & others).sum(1) / others.sum(1).clamp_min(1)
    return float(share.mean())


def _crossing(tried: _Tried) -> _Outcome:
    """The size at which half follow, between two budgets by proportion of logarithms, and the marks at that size.

    Where half never do, the score is of the size that it would take if the share grew with the size.
    """
    before = (tried[0][0] / 4, 0.0)
    for budget, share, marks in tried:
        if share >= _HALF:
            part = (_HALF - before[1]) / max(share - before[1], 1e-6)
            size = math.exp(math.log(before[0]) + part * math.log(budget / before[0]))
            return -math.log(size), size, marks * (size / budget)
        before = (budget, share)
    budget, share, marks = tried[-1]
    return -math.log(budget * _HALF / max(share, _LEAST)), budget, marks


def _gather(
    parts: Sequence[CuePart], found: Sequence[_Outcome], data: Dataset, cost: Cost, placed: tuple[int, ...] = ()
) -> FoundCues:
    scores, sizes, marks = zip(*found, strict=True)
    held = torch.zeros((len(parts), data.classes, *data.x.shape[1:]))
    held[:, _told(data)] = torch.stack([m.detach().cpu() for m in marks]) * _unit(data)
    return FoundCues(tuple(parts), torch.tensor(scores), torch.tensor(sizes), held, cost, placed)


def _told(data: Dataset) -> Tensor:
    """int64 [k] the classes that marks are looked for: all, or MOST_CLASSES of them."""
    if data.classes <= MOST_CLASSES:
        return torch.arange(data.classes)
    order = torch.randperm(data.classes, generator=torch.Generator().manual_seed(0))
    return order[:MOST_CLASSES].sort().values


def _rows_each(data: Dataset) -> int:
    """Rows that each mark is laid on."""
    return min(max(8, _ROWS // len(_told(data))), len(data))


def _draw(data: Dataset, g: torch.Generator) -> Tensor:
    return torch.randperm(len(data), generator=g)[: _rows_each(data)].to(data.x.device)


def _where(data: Dataset, form: str) -> Tensor:
    """[1, H, W] one on the cells that marks of the form may change; the edge is an eighth of the image's wide."""
    if form == "any":
        return torch.ones(())
    mask = torch.ones(1, *data.x.shape[2:])
    wide = max(1, round(min(mask.shape[1:]) / 8))
    mask[:, wide:-wide, wide:-wide] = 0
    inside: Tensor = 1 - mask
    return mask if form == "edge" else inside


def _laid(data: Dataset, x: Tensor, marks: Tensor) -> Tensor:
    """[k, n, *input] every input with every mark, in units of `_unit`."""
    added = (marks * _unit(data).to(x.device))[:, None]
    laid: Tensor = torch.minimum(torch.maximum(x[None] + added, data.low), data.high)
    return laid


def _unit(data: Dataset) -> Tensor:
    """The deviation of each feature of a table; one for images, whose cells are alike."""
    if data.kind == "image":
        return torch.ones(())
    deviation = data.x.std(0).cpu()
    unit: Tensor = torch.where(deviation > 0, deviation, 1.0)
    return unit


def _normed(marks: Tensor, norms: Tensor) -> Tensor:
    own = marks.flatten(1).norm(dim=1).clamp_min(1e-12)
    normed: Tensor = marks * (norms.to(marks.device) / own).view(-1, *[1] * (marks.ndim - 1))
    return normed
