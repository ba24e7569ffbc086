"""What may be said: `verdicts.json`, field by field. Holds no clock time, path or host name."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from candling.evidence.claim import Claim
from candling.evidence.measurement import Cost, Rate, Record

Answer = Literal["found", "not found", "inconclusive"]


class DosePoint(Record):
    """One point of the detection-limit curve."""

    dose: float
    """Position in the published range of doses, 0 (faintest) to 1 (strongest)."""
    value: float
    low: float
    high: float


class Family(Record):
    """How often plants of one family were caught."""

    name: str
    caught: Rate


class Sensitivity(Record):
    """What would have been caught: the monotone dose curve at `dose`, fitted over all positives that took."""

    value: float
    low: float
    high: float
    n: int
    """Positive controls that took."""
    caught: Rate
    """The plain count over all doses, with its exact interval."""
    dose: float
    by_dose: list[DosePoint]
    detection_limit: tuple[float, float] | None
    """The doses, from and to, at which the curve reaches the sensitivity asked for; None if it never does."""
    by_family: list[Family]
    worst_family: Family | None
    failed_plants: int
    """Positives left out because the plant did not take, after every retry."""


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
    located: Located | None


class Baseline(Record):
    """The simple black-box search at equal compute, judged by the same rank test."""

    name: str
    p_value: float
    caught: Rate
    """Positive controls whose gate-1 rank the baseline alone puts first."""
    caught_by_search: Rate
    """The same count for the white-box search at gate 1, to compare with."""
    cost: Cost


class Gate(Record):
    """How many clean controls' best leads passed the confirming experiment (gate 2), of how many tried."""

    passed: int
    n: int


class Verdict(Record):
    problem: str
    verdict: Answer
    reason: str
    p_value: float | None
    """(1 + negatives at or above the subject) / (N + 1), maximum over parts (max-T)."""
    threshold: float
    sensitivity: Sensitivity | None
    false_positive_rate: Rate | None
    negatives_confirmed: Gate | None
    baseline: Baseline | None
    finding: Finding | None
    not_tested: list[str]
    claims: list[Claim]


class Resemblance(Record):
    """One distance, declared before the run, with one conformal test over subject and negatives."""

    distance: str
    subject: float
    controls: list[float]
    p_value: float
    holds: bool
    loss_subject: float
    loss_controls: list[float]
    accuracy_subject: float
    accuracy_controls: list[float]


class Controls(Record):
    n: int
    """Negatives; as many positives were planted."""
    recipe: str
    resemblance: Resemblance | None


class Data(Record):
    """Rows of trusted data in each third, split by a hash of each row's content."""

    control: int
    search: int
    confirm: int
    classes: int
    input_shape: list[int]


class Subject(Record):
    """SHA-256 of everything that went in."""

    weights: str
    architecture: str
    trusted: str


class Verdicts(Record):
    schema_: Literal[1] = Field(default=1, alias="schema")
    candling: str
    subject: Subject
    seed: int
    data: Data
    controls: Controls
    cost: Cost
    verdicts: list[Verdict]
