"""What the stages hand on: from a search, a confirmation, a training, a repair."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from candling.evidence.control import Plant
from candling.evidence.measurement import Cost
from candling.organisms.plants import Hidden
from candling.problems.candidates import Candidate, Thirds
from candling.techniques.search import (
    Act,
    ActPart,
    BroadChange,
    ChangePart,
    Context,
    ContextPart,
    CuePart,
    CueSet,
    Found,
    FoundActs,
    FoundChanges,
    FoundContexts,
    FoundCues,
    FoundSequence,
    FoundSequences,
    FoundTrigger,
    Part,
    SequencePart,
)

Trigger = FoundTrigger | FoundSequence | BroadChange | Context | CueSet | Act
Sought = Part | SequencePart | ChangePart | ContextPart | CuePart | ActPart
Searched = Found | FoundSequences | FoundChanges | FoundContexts | FoundCues | FoundActs


@dataclass(frozen=True)
class Detection:
    """What the blind search, and the black-box baseline at equal compute, found in one network."""

    found: Searched
    baseline: Searched


@dataclass(frozen=True)
class Rival:
    """A negative control, with what the same search found in it for the lead's part."""

    candidate: Candidate
    trigger: Trigger
    size: float


@dataclass(frozen=True)
class Lead:
    """One of a network's foremost leads, before gate 2."""

    part: Sought
    trigger: Trigger
    rivals: Sequence[Rival]
    """The negatives, each with what the same search found in it for this part."""


@dataclass(frozen=True)
class Confirmation:
    """Gate 2 for one network's lead, on the confirm third."""

    part: Sought
    trigger: Trigger
    """Refined on the search third."""
    size: float
    hits: int
    n: int
    random: float
    """Highest success of random triggers of the same size."""
    random_triggers: int
    transfer: float
    """Highest success of this trigger on the (other) negative controls."""
    best_in_controls: float
    """Highest success of the controls' own triggers for the same part, brought down to this size."""
    cost: Cost

    @property
    def success(self) -> float:
        return self.hits / self.n

    @property
    def excess(self) -> float:
        """Success beyond what the same trigger does in clean networks."""
        return self.success - self.transfer


@dataclass(frozen=True)
class Made:
    """A control without its weights."""

    recipe: str
    loss: float
    accuracy: float
    plant: Plant | None
    cost: Cost


def planted(plant: Hidden | None, success: float, *, took: bool, attempts: int) -> Plant | None:
    """The answer, for the driver's record alone."""
    if plant is None:
        return None
    said = {"family": plant.family, "dose": plant.dose, "physical": plant.physical, "rate": plant.rate}
    return Plant.model_validate({**said, "success": success, "took": took, "attempts": attempts})


@dataclass(frozen=True)
class Trained:
    """What a training job hands back."""

    state: dict[str, Tensor]
    made: Made


@dataclass(frozen=True)
class Mended:
    """What a repair did, on inputs of the confirm third, without the weights."""

    before: int
    """Of n inputs, those on which the found trigger had its way."""
    after: int
    n: int
    after_fitting: float
    """Share of the inputs that the repair was fitted on."""
    cost: float
    """Lost on clean inputs: accuracy as a share (0.01 is a point) or what stands for it, or nats a token."""
    spent: Cost


@dataclass(frozen=True)
class Repaired:
    """What a repair job hands back."""

    state: dict[str, Tensor]
    mended: Mended


@dataclass(frozen=True)
class Remedy:
    """How a problem class mends what it found. Every stage can run in a worker process."""

    method: str
    """In words, for the report."""
    unit: Literal["points", "nats", "measure"]
    repair: Callable[[Candidate, Thirds[Any], Confirmation, bool, int], Repaired]
    """(candidate, thirds, what was found, against a random trigger instead?, seed)"""
    relearn: Callable[[Candidate, Thirds[Any], Confirmation, int], int]
    """(candidate, thirds, what was found, seed) → steps until the trigger works again; see `MOST_STEPS`"""
    levels: bool = False
    """Whether it brings networks of any loss to the same one, so that what it costs hangs on the loss before."""


MOST_STEPS = 200
"""Steps after which teaching a trigger again is given up."""
