"""What may be said: `verdicts.json`, field by field. Holds no clock time, path or host name."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from candling.evidence.claim import Claim
from candling.evidence.findings import Finding, Forecast
from candling.evidence.measurement import Cost, Rate, Record
from candling.evidence.untrusted import FlaggedInputs, Group, Untrusted

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


class Repair(Record):
    """An edit of the weights: what it would do, said before it was made, and what it did, on unused inputs."""

    method: str
    unit: Literal["points", "nats", "measure"]
    """What the cost is counted in: points of accuracy (recorded as a share, 0.01 is a point), nats a token, or the
    measure that stands for accuracy (see `Data`)."""
    basis: str
    """What the forecast rests on."""
    before: Rate
    """Success of the found trigger on held-out inputs, in the network as given."""
    forecast: Forecast
    """Of that success after the repair."""
    forecast_cost: Forecast
    after: Rate
    cost: float
    """Lost on held-out clean inputs; negative where the repaired network is better."""
    after_fitting: float
    """Success on the inputs that the repair was fitted on."""
    random_success: float
    """Success after the same repair against a random trigger: what the repair's own training does."""
    random_cost: float
    again: Answer
    """The verdict on the repaired network."""
    again_p_value: float | None
    relearning: float | None
    """Steps to teach it the trigger again, as a share of those for a clean control; None if neither learned."""
    weights: str
    """SHA-256 of the repaired weights."""


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
    repair: Repair | None = None


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
    soup: str | None = None
    """SHA-256 of the mean of clean fine-tunes that every language model is compared with; of networks that foretell
    sensors, of those that learned trusted cases alone."""


class Data(Record):
    """Rows of trusted data in each third, split by a hash of each row's content."""

    control: int
    search: int
    confirm: int
    classes: int
    input_shape: list[int]
    bands: list[str] | None = Field(default=None, exclude_if=lambda value: value is None)
    """What the classes are, where they are bands of the network's one real output."""
    measure: str | None = Field(default=None, exclude_if=lambda value: value is None)
    """What stands for accuracy, if that does not: `R²`, or the user's metric; higher is better."""


class Subject(Record):
    """SHA-256 of everything that went in."""

    weights: str
    architecture: str
    trusted: str
    reference: str | None = None
    """Of the language model that the subject was made from."""
    chat_template: str | None = None
    """Of the template that the texts were rendered by, if they were conversations."""
    untrusted: str | None = None
    """Of a classifier's untrusted inputs and the cells called legitimate, as they were judged."""


class Verdicts(Record):
    schema_: Literal[1] = Field(default=1, alias="schema")
    candling: str
    subject: Subject
    seed: int
    data: Data
    controls: Controls
    cost: Cost
    verdicts: list[Verdict]
    untrusted: Untrusted | None = None
    flagged: FlaggedInputs | None = None
    groups: list[Group] = Field(default_factory=list)
