"""What is said of untrusted inputs: the fields `untrusted`, `flagged` and `groups` of `verdicts.json`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from candling.evidence.claim import Claim
from candling.evidence.measurement import Rate, Record


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
