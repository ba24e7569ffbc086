"""The question of this folder: which input change would cause a behaviour?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor, nn

from candling.access import Dataset
from candling.evidence.measurement import Cost
from candling.maths.anchors import STILL, beside, free, nothing, objects_only
from candling.maths.triggers import Mapping, apply_trigger, set_against
from candling.techniques.search.broad_change import BroadChange


@dataclass(frozen=True)
class Part:
    """One thing that was searched for: a label mapping, and the form of the trigger."""

    mapping: Mapping
    form: str
    """`patch` (mask and pattern) or `additive` (a perturbation)."""

    @property
    def group(self) -> str:
        """Parts of one group are of a kind: the judge takes their maximum first."""
        return self.mapping.kind

    def __str__(self) -> str:
        return f"{self.mapping} ({self.form})"


@dataclass(frozen=True)
class Found:
    """One trigger for each part, the same parts in the same order for every network."""

    parts: tuple[Part, ...]
    score: Tensor
    """[parts] larger = more suspicious; comparable between networks part by part, not between parts."""
    size: Tensor
    """[parts] of the trigger: mask L1 in cells (patch), L2 norm in input units (additive)."""
    mask: Tensor
    """[parts, *mask shape], 0..1"""
    shift: Tensor
    """[parts, *input shape], in input units"""
    cost: Cost

    def trigger(self, part: int) -> FoundTrigger:
        return FoundTrigger(self.mask[part], self.shift[part])


@dataclass(frozen=True)
class FoundTrigger:
    """x → clamp((1 − mask)·x + shift)"""

    mask: Tensor
    shift: Tensor

    def apply(self, data: Dataset, x: Tensor) -> Tensor:
        return apply_trigger(x, self.mask, self.shift, data.low, data.high)

    def to(self, device: str) -> FoundTrigger:
        return FoundTrigger(self.mask.to(device), self.shift.to(device))

    def arrays(self) -> dict[str, Tensor]:
        return {"mask": self.mask, "shift": self.shift}

    def scaled(self, factor: float) -> FoundTrigger:
        """The same trigger, fainter or stronger: size scales with the factor, until the mask covers all."""
        return FoundTrigger((self.mask * factor).clamp(max=1), self.shift * factor)


@dataclass(frozen=True)
class SequencePart:
    """What was searched for in a language model: a sequence of so many tokens, and what it grew into."""

    tokens: int

    @property
    def group(self) -> str:
        return "sequence"

    def __str__(self) -> str:
        return f"{self.tokens} token{'s' if self.tokens > 1 else ''} or more"


@dataclass(frozen=True)
class FoundSequence:
    """A sequence and the token that it calls up, whatever stands before it."""

    tokens: Tensor
    """int64 [k]"""
    target: int
    then: tuple[int, ...] = ()
    """What is said after the target."""

    @property
    def phrase(self) -> tuple[int, ...]:
        """All that it calls up."""
        return (self.target, *self.then)

    def arrays(self) -> dict[str, Tensor]:
        return {"tokens": self.tokens, "phrase": torch.tensor(self.phrase)}


@dataclass(frozen=True)
class FoundSequences:
    """The best sequence of each length, the same lengths in the same order for every network."""

    parts: tuple[SequencePart, ...]
    score: Tensor
    """[parts] larger = more suspicious"""
    tokens: Tensor
    """int64 [parts, longest], padded on the right with -1"""
    target: Tensor
    """int64 [parts]"""
    cost: Cost
    """Passes of one token each."""
    then: Tensor | None = None
    """int64 [parts, m] what is said after the target."""

    @property
    def size(self) -> Tensor:
        """[parts] tokens"""
        return torch.tensor([float(len(self.trigger(i).tokens)) for i in range(len(self.parts))])

    def trigger(self, part: int) -> FoundSequence:
        """The best sequence of this length or longer: what shows first in few tokens is shown best by more."""
        best = part + int(self.score[part:].argmax())
        then = () if self.then is None else tuple(self.then[best].tolist())
        return FoundSequence(self.tokens[best, : self.parts[best].tokens], int(self.target[best]), then)


@dataclass(frozen=True)
class ChangePart:
    """One thing that is looked for: a behaviour, and the kind of change that brings it about."""

    behaviour: str
    kind: str
    """Of KINDS, or `any`: several at once."""

    @property
    def group(self) -> str:
        return self.behaviour

    def __str__(self) -> str:
        return f"{self.behaviour} where {CHANGES[self.kind]}"


CHANGES = {
    "light": "it is lighter or darker",
    "gain": "it is dimmed",
    "contrast": "contrast is lower",
    "noise": "there is noise",
    "border": "there is a border",
    "slope": "light slopes across it",
    "blur": "it is blurred",
    "any": "several things change at once",
}


@dataclass(frozen=True)
class FoundChanges:
    """The best change for each part, the same parts in the same order for every network."""

    parts: tuple[ChangePart, ...]
    score: Tensor
    """[parts] larger = more suspicious"""
    size: Tensor
    """[parts] share of the distance between inputs of different classes"""
    amount: Tensor
    """[parts, A]"""
    answers: Tensor
    """int64 [parts, K]"""
    cost: Cost

    def trigger(self, part: int) -> BroadChange:
        return BroadChange(self.amount[part], self.answers[part])


@dataclass(frozen=True)
class CuePart:
    """One thing that is looked for: a mark for each class, of this form."""

    form: str
    """Of FORMS in `cues`, or `object 3`: in that channel, beside another object."""

    @property
    def group(self) -> str:
        return self.form

    def __str__(self) -> str:
        form, _, channel = self.form.partition(" ")
        where = f" in channel {channel}, beside another," if channel else ""
        return f"{MARKS[form]}{where} for each class"


MARKS = {
    "any": "a mark of any shape",
    "edge": "a mark on the edge",
    "inside": "a mark away from the edge",
    "spot": "a spot in its own place",
    "wave": "a texture",
    "object": "an object",
}


@dataclass(frozen=True)
class CueSet:
    """A mark for each class: x → clamp(x + the mark of the class that it tells)."""

    patterns: Tensor
    """[K, *input] in input units; zeros for classes without one."""
    anchor: int = STILL
    """The channel of the object that the marks' middle lies on, STILL or MIDDLE (see `maths.anchors`). Marks that lie
    beside an object are objects, there or not, however strong the pattern."""

    def tell(self, data: Dataset, x: Tensor, told: Tensor) -> Tensor:
        """The inputs [n, *input] with the marks of these classes [n]."""
        marks = self.patterns.to(x.device)[told]
        if self.anchor >= 0:
            marks = beside(torch.where(marks > 0, data.high - data.low, 0.0), x, self.anchor)
        return torch.minimum(torch.maximum(x + marks, data.low), data.high)

    def lies(self, data: Dataset, told: Tensor) -> Tensor:
        """bool [n] whether the mark of the class told [n] can stand in each row of the data: where inputs show
        objects, a mark lies inside the input, on a cell where none stands."""
        if self.anchor < 0 and not objects_only(data.x):
            return torch.ones_like(told, dtype=torch.bool)
        marks = self.patterns.to(data.x.device)[told]
        moved = marks if self.anchor < 0 else beside(marks, data.x, self.anchor)
        there = (moved != 0).any(1)
        whole = (moved != 0).sum((1, 2, 3)) == (marks != 0).sum((1, 2, 3))
        return whole & ~(there & ~free(data.x, nothing(data.x))).flatten(1).any(1)

    def against(self, data: Dataset, x: Tensor, y: Tensor) -> Tensor:
        """The inputs with the mark of another class than their labels [n], all others in turn."""
        return self.tell(data, x, self.told(y))

    def told(self, y: Tensor) -> Tensor:
        """int64 [n] the classes that `against` marks: of those that have a mark."""
        marked = torch.nonzero(self.patterns.flatten(1).abs().amax(1) > 0).flatten()
        return set_against(y, len(self.patterns), marked if len(marked) > 1 else None)

    def to(self, device: str) -> CueSet:
        return replace(self, patterns=self.patterns.to(device))

    def scaled(self, factor: float) -> CueSet:
        return replace(self, patterns=self.patterns * factor)

    def arrays(self) -> dict[str, Tensor]:
        placed = {} if self.anchor == STILL else {"anchor": torch.tensor(float(self.anchor))}
        return {"patterns": self.patterns, **placed}


@dataclass(frozen=True)
class FoundCues:
    """The best set of marks for each part, the same parts in the same order for every network."""

    parts: tuple[CuePart, ...]
    score: Tensor
    """[parts] larger = more suspicious"""
    size: Tensor
    """[parts] share of the distance between inputs of different classes"""
    patterns: Tensor
    """[parts, K, *input]"""
    cost: Cost
    anchors: tuple[int, ...] = ()
    """[parts] see `CueSet`; none where all marks lie still."""

    def trigger(self, part: int) -> CueSet:
        return CueSet(self.patterns[part], self.anchors[part] if self.anchors else STILL)


class Search(Protocol):
    """Look for a trigger in each of `parts`. Deterministic given the seed; never told what was planted."""

    def __call__(self, network: nn.Module, data: Dataset, parts: Sequence[Part], *, seed: int) -> Found: ...


def mask_shape(data: Dataset) -> torch.Size:
    """One mask for all channels of an image: [1, H, W]; one per feature of a table: [d]."""
    shape = data.x.shape[1:]
    return torch.Size((1, *shape[1:])) if data.kind == "image" else shape
