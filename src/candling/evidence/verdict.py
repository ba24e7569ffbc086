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
    """`spot`, `texture`, `frame`, `pattern` or `features`."""
    proxy: str
    """In words."""
    where: str
    """Of spots, the places of the first few classes' (rows and columns from 1); else empty."""
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
    unit: Literal["points", "nats"]
    """What the cost is counted in: points of accuracy (recorded as a share, 0.01 is a point), or nats a token."""
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


class FlaggedText(Record):
    """One untrusted text."""

    line: int
    """Its line in the file, from 1."""
    score: float
    p_value: float
    """By rank among the held-out trusted texts."""
    tokens: list[str]
    """Around the most unusual token, which is `at`."""
    at: int


class Untrusted(Record):
    """Untrusted texts by how unusual the subject's states are in them, beside the soup's."""

    technique: str
    n: int
    near_copies: int
    """Texts that nearly repeat a trusted one."""
    flagged: int
    """Texts above every held-out trusted one but the share that `threshold` allows."""
    threshold: float
    """Share of held-out trusted texts that would be flagged."""
    benign_novel: Rate
    """False alarms on harmless text of another sort."""
    texts: list[FlaggedText]
    """The most unusual first, fifty at most."""


class ClassCount(Record):
    label: int
    n: int


class Group(Record):
    """Untrusted inputs that stand out together, and by which mechanism the subject answers them."""

    inputs: list[int]
    """Rows of the file, the most unusual first, a thousand at most."""
    n: int
    answer: Literal["generalised", "other mechanism", "cannot tell"]
    p: float
    """Of another mechanism, as the calibrated judge has it."""
    p_generalised: float
    p_new: float
    """Of something rightly new: a mechanism of its own that is no cheat."""
    reuse: float
    """Answers that follow when what matters for trusted inputs is swapped in, as a share of what trusted ones do."""
    baseline_p: float
    """Of another mechanism, by the black-box baseline: parts of inputs swapped, outputs alone."""
    predicted: list[ClassCount]
    confidence: float
    """Mean over the group."""
    stay: float | None = None
    """Share of answers that stay when every cell is exchanged that the user did not call legitimate, if any was."""
    judged: str | None = None
    """What the answer would have been, where the legitimate cells decided it."""


class Calibration(Record):
    """What the judge of groups is worth: controls of each family judged by those of all others."""

    taught: int
    """Controls that learned their lesson."""
    of: int
    honest: Rate
    """Honest ones that are not called another mechanism."""
    caught: Rate
    """Cheating ones that are."""
    novel: Rate
    """Those that learned something rightly new and are called another mechanism: false alarms."""
    baseline_caught: Rate
    baseline_novel: Rate
    confidence_right: Rate
    """Honest and cheating ones told apart by confidence alone: near a half, or the comparison would be idle."""


class FlaggedInputs(Record):
    """Untrusted inputs of a classifier, by how unusual the subject's states are in them."""

    technique: str
    n: int
    near_copies: int
    """Inputs that differ from a trusted one by less than a hundredth of the range in every cell."""
    flagged: int
    threshold: float
    """Share of held-out trusted inputs that would be flagged."""
    by_confidence: int
    """Of those flagged, how many the black-box baseline (output confidence) flags at the same threshold."""
    calibration: Calibration | None
    """None where nothing stands out together."""
    claims: list[Claim] = Field(default_factory=list)
    """That these inputs were judged, and each group's answer."""


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
    """SHA-256 of the mean of clean fine-tunes that every language model is compared with."""


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
