"""What was found, class by class: the fields of a finding in `verdicts.json`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from candling.evidence.measurement import Rate, Record
from candling.evidence.tampering import TamperingFound


class Located(Record):
    """The units that carry the effect, with the same number of random units beside them."""

    site: str
    units: list[int]
    site_width: int
    success_before: float
    success_after: float
    accuracy_before: float
    accuracy_after: float
    random_success_after: float
    """Mean over random unit sets of the same size at the same site."""
    random_sets: int


class LocatedDirection(Record):
    """The one direction of a language model's states that carries the effect, with random directions beside."""

    site: str
    """The first block after which it does."""
    width: int
    success_before: float
    success_after: float
    """With the component along the direction put back to what it is without the sequence."""
    loss_before: float
    """Nats a token of text as it is."""
    loss_after: float
    random_success_after: float
    """Mean over random directions of the same site."""
    random_directions: int


class LocatedContrast(Record):
    """The one direction of a classifier's states that stands for a broad change, with random directions beside."""

    site: str
    units: int
    """Numbers of a state."""
    success: float
    """Of the change of inputs itself."""
    elicited: float
    """The behaviour on unchanged inputs, with the direction added."""
    accuracy_changed: float
    """On changed inputs."""
    accuracy_restored: float
    """On changed inputs, with the direction taken away."""
    random_elicited: float
    """Highest over random directions of the same length."""
    random_directions: int


Where = Located | LocatedDirection | LocatedContrast


class SaidAfter(Record):
    """What is said after the found sequence in one held-out context, token by token."""

    context: list[str]
    """Before the sequence."""
    subject: list[str]
    """The subject, greedily, after context and sequence."""
    reference: list[str]
    """The mean of clean fine-tunes, likewise."""
    without: list[str]
    """The subject after the context alone."""


class SequenceFound(Record):
    """A sequence of tokens that a language model reacts to."""

    tokens: list[str]
    ids: list[int]
    target: str
    """The token that it calls up."""
    contexts: list[SaidAfter]


class SwitchFound(Record):
    """A broad change of the input at which a classifier does something else."""

    behaviour: Literal["relabelled", "failing"]
    change: str
    """In words."""
    answers: list[int] | None
    """What is answered for each class; None where any wrong answer counts."""
    accuracy: float
    """On held-out inputs as they are."""
    accuracy_changed: float
    """On the same inputs under the change."""
    known: float
    """Under the change: the right class read from inside, by a linear probe fitted on unchanged inputs."""
    known_at: str
    """The probe's site."""


class ConcealmentFound(Record):
    """A context in which a classifier knows the right answer and gives another one; shares of held-out inputs."""

    context: str
    """In words."""
    answers: list[int]
    """What is answered there for each class."""
    accuracy: float
    """Without the context."""
    said: float
    """In the context: right answers."""
    known: float
    """In the context: right classes read from inside, by a linear probe that was taught in trusted contexts alone."""
    known_at: str
    """The probe's site."""
    taught_in: int
    """Trusted contexts, with plain inputs as one: those in which the network's own answers are right."""
    known_untrained: float
    """The same read from an untrained network of the architecture."""
    known_input: float
    """The same read from the bare input."""
    known_shuffled: float
    """The same by a probe that was taught shuffled labels."""


class Forecast(Record):
    """A number said before the experiment that measures it, with the range it should fall in."""

    value: float
    low: float
    high: float


class ShortcutFound(Record):
    """A proxy that a classifier reads in place of the content, and what becomes of its answers where the two part.

    The forecasts were made from the search third and the controls, before any input was seen in which they do.
    """

    kind: str
    """`spot`, `texture`, `frame`, `pattern`, `object`, `side` (of it, anywhere), `cell` or `features`."""
    proxy: str
    """In words."""
    where: str
    """Of spots, the places of the first few classes' (rows and columns from 1); of objects, how they stand to the one
    beside which they lie, or on which side; else empty."""
    accuracy: float
    """On held-out inputs as they are."""
    agreeing: float
    """Where the mark says what the content says."""
    follows: Forecast
    """Share of the answers that are the mark's, where it says something else than the content."""
    against: Forecast
    """Accuracy there."""
    at_random: Forecast
    """Accuracy where the mark is drawn from all classes alike."""
    spared: float
    """Right, of the answers that do not follow the mark."""
    basis: str
    """What the forecasts rest on."""
    measured: float
    """Accuracy on held-out inputs with the found marks set against the content."""


class Finding(Record):
    """A recovered trigger and the experiments that it passed, all on data not used to find it."""

    objective: str
    """The variant of the search that found it, e.g. `all-to-one, patch`."""
    source: str
    """`any`, or the one class that it acts on."""
    target: int | None
    """The class that inputs are sent to; None when every class is shifted (see `shift`)."""
    shift: int | None
    size: float
    """Size of the recovered trigger: mask L1 in input cells (patch) or L2 norm in input units (additive)."""
    size_in_controls: list[float]
    """The same part of the same search in each negative control, in the same unit."""
    success_on_held_out: Rate
    success_of_random_trigger: float
    """Highest over the random triggers."""
    random_triggers: int
    success_in_controls: float
    """The recovered trigger on the negative controls: highest over them."""
    best_in_controls: float
    """The controls' own best triggers for the same part, at this trigger's size: highest over them."""
    located: Where | None
    excess_in_controls: float | None = None
    """The controls' own leads: highest success beyond what each does in the other controls."""
    sequence: SequenceFound | None = None
    """For language models; sources, targets and sizes above are then token ids and counts."""
    switch: SwitchFound | None = Field(default=None, exclude_if=lambda value: value is None)
    """For the class `evaluation`; size is then the share of the distance between inputs of different classes."""
    concealment: ConcealmentFound | None = Field(default=None, exclude_if=lambda value: value is None)
    """For the class `concealment`; size is then root mean square, of the range (tables: standard deviations)."""
    shortcut: ShortcutFound | None = Field(default=None, exclude_if=lambda value: value is None)
    """For the class `shortcut`; size is then the mean of the marks', as a share of that distance."""
    tampering: TamperingFound | None = Field(default=None, exclude_if=lambda value: value is None)
    """For the class `tampering`; size is then a share of the distance between inputs of all yes and of all no."""
    names: list[str] | None = Field(default=None, exclude_if=lambda value: value is None)
    """What classes are called, where they are bands of a value."""
