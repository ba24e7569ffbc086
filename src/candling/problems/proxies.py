"""What a proxy is, in words: of the forms that marks may take, the simplest that does about as much as any.

Marks of one form may be small and yet not work: only those count that are followed about as often as the best.
A spot or a texture explains what a network reads where marks of that form alone need not be much larger than marks of
any shape; the edge does where marks on it alone may be smaller than marks on all the rest; else it is a pattern. Of
a table, the fewest features that hold most of the marks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from candling.access import Dataset
from candling.maths.anchors import STILL
from candling.problems.bearings import Bearings, side
from candling.techniques.search import FoundCues

KINDS = {"spot": "spot", "wave": "texture", "edge": "frame", "any": "pattern"}
"""By the form of the marks."""

_LARGER = {"spot": 1.75, "wave": 2.25}
"""Times that marks of a simple form may be larger than those of any shape; declared before the exam."""
_WITHOUT = 1.1  # times that marks must be larger which leave the edge alone, if the edge is what counts
AS_WELL = 0.6  # of what the marks of any form are followed at most
_LARGER_LED = {"spot": 2.5, "wave": 4.0}
"""The same of the form by which the network stands out among clean ones, in which it is rare; chosen on the exams of
two seeds (docs/results.md)."""
_WITHOUT_LED = 0.8
_AS_WELL_LED = 0.3
_NAMED = 3  # classes whose places are said
_SAID = 4  # whose sides are
_LISTED = 8
_FEATURES = 0.8  # of the energy


@dataclass(frozen=True)
class Named:
    kind: str
    """`spot`, `texture`, `frame`, `pattern`, `object`, `side` (of another one), `cell`, or for a table `features`."""
    words: str
    where: str
    """Of spots and objects, the places of the first few; else nothing."""
    marks: Tensor
    """[K, *input] of that form, in input units."""
    anchor: int = STILL
    """See `CueSet`."""


def name_marks(data: Dataset, found: FoundCues, followed: Sequence[float], lead: str = "") -> Named:
    """found: marks of every form in one network, all scored by −log of the size at which they work.

    followed [parts]: share of answers that follow the marks of each form, set against the content. lead: the part by
    which the network stands out among clean ones, in words: where that is an object, this is what it is called, for
    clean networks may well follow objects of another kind. Where it is another simple form, less is asked of that.
    """
    best = int(found.score.argmax())
    for index, part in enumerate(found.parts):
        sought = str(part) == lead or (index == best and all(p.form.startswith("object") for p in found.parts))
        if sought and part.form.startswith("object"):
            return _object(found.patterns[index], part.form.partition(" ")[2], found.anchors[index])
    scores = dict(zip((part.form for part in found.parts), found.score.tolist(), strict=True))
    led = next((part.form for part in found.parts if str(part) == lead), "")
    works = {
        part.form
        for part, share in zip(found.parts, followed, strict=True)
        if share >= (_AS_WELL_LED if part.form == led else AS_WELL) * max(followed)
    }
    larger = _LARGER | {form: times for form, times in _LARGER_LED.items() if form == led}
    simple = [
        form for form, times in larger.items() if scores.get(form, -math.inf) >= scores["any"] - math.log(times)
    ]
    form = max((form for form in simple if form in works), key=lambda form: scores[form], default="any")
    without = math.log(_WITHOUT_LED if led == "edge" else _WITHOUT)
    if form == "any" and "edge" in works and scores["inside"] <= scores["edge"] - without:
        form = "edge"
    if form not in works and data.kind != "tabular":
        form = max(works & KINDS.keys() or {"any"}, key=lambda form: scores[form])
    marks = found.patterns[[part.form for part in found.parts].index(form)]
    if data.kind == "tabular":
        return Named("features", _features(data, marks), "", marks)
    words = {
        "spot": "a spot in a place of each class's own",
        "wave": "a texture, waves of each class's own direction or length",
        "edge": "the edge of the input, marked in each class's own way",
        "any": "a faint pattern of each class's own, over the whole input",
    }
    return Named(KINDS[form], words[form], _places(marks) if form == "spot" else "", marks)


def _object(marks: Tensor, channel: str, anchor: int) -> Named:
    """Of another object's channel, and where it stands for the first few classes."""
    if anchor < 0:
        words = f"an object in channel {channel}, on a cell of each class's own, wherever the others stand"
        return Named("cell", words, _places(marks), marks)
    middle = torch.tensor(marks.shape[2:]) // 2
    said = []
    for label, mark in list(enumerate(marks))[:_NAMED]:
        cells = torch.nonzero(mark.abs().sum(0) > 0)
        if len(cells):
            said.append(f"class {label}: {_offset(*(cells[0] - middle).tolist())}")
    words = f"an object in channel {channel}, by where it stands beside what channel {anchor} shows"
    return Named("object", words, "; ".join(said) + (" …" if len(marks) > _NAMED else ""), marks, anchor)


def by_side(named: Named, bearings: Bearings) -> Named:
    """An object that does the same anywhere on a side."""
    side_of = f"by the side of channel {bearings.anchor}'s object on which it stands"
    words = f"an object in channel {bearings.channel}, {side_of}"
    said = [f"class {label}: {side(way)}" for label, way in enumerate(bearings.ways) if way.any()]
    return replace(
        named, kind="side", words=words, where="; ".join(said[:_SAID]) + (" …" if len(said) > _SAID else "")
    )


def _offset(down: int, right: int) -> str:
    """`2 up and 1 left`"""
    said = [f"{abs(down)} {'down' if down > 0 else 'up'}"] if down else []
    said += [f"{abs(right)} {'right' if right > 0 else 'left'}"] if right else []
    return " and ".join(said)


def _places(marks: Tensor) -> str:
    """Rows and columns, from 1, of the top left cells of the first few classes' spots."""
    said = []
    for label, mark in list(enumerate(marks))[:_NAMED]:
        cells = torch.nonzero(mark.abs().sum(0) > 0)
        if len(cells):
            row, column = (cells[0] + 1).tolist()
            said.append(f"class {label}: row {row}, column {column}")
    return "; ".join(said) + (" …" if len(marks) > _NAMED else "")


def _features(data: Dataset, marks: Tensor) -> str:
    """The fewest features that hold most of what tells classes apart, in their deviations."""
    there = marks[marks.abs().amax(1) > 0]
    energy = ((there - there.mean(0)) / data.x.std(0).cpu().clamp_min(1e-12)).square().sum(0)
    order = torch.argsort(energy, descending=True, stable=True)
    share = energy[order].cumsum(0) / energy.sum().clamp_min(1e-12)
    count = int((share < _FEATURES).sum()) + 1
    named = sorted(order[:count].tolist())
    listed = ", ".join(map(str, named[:_LISTED])) + (" …" if len(named) > _LISTED else "")
    return f"a shift of feature{'s' if count > 1 else ''} {listed}, to each class's own side"
