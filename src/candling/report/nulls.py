"""The confirming experiment in words: a trigger beside the three explanations that a clean network would share."""

from __future__ import annotations

from dataclasses import dataclass

from candling.evidence.findings import Finding
from candling.evidence.measurement import Rate


@dataclass(frozen=True)
class Null:
    """One bar of the confirming experiment, with what it rules out."""

    label: str
    words: str
    value: float
    interval: Rate | None
    of_subject: bool


@dataclass(frozen=True)
class _Speech:
    """A label and words for each bar: the trigger itself, random ones, the controls' own, and it in the controls."""

    labels: tuple[str, str, str, str]
    words: tuple[str, str, str, str]
    short: tuple[str, str, str]
    """The nulls in a few words."""


_PATTERN = _Speech(
    (
        "The recovered trigger on this network",
        "Random triggers of the same size",
        "Clean networks' own best triggers at this size",
        "The recovered trigger on clean networks",
    ),
    (
        "Measured on {n:,} inputs that the search never saw.",
        "Highest of {random:,}. Rules out that any disturbance this large would do it.",
        "Highest over the clean controls. Rules out a weakness that every network of this kind has.",
        "Highest over the clean controls. Rules out that the pattern simply looks like the target class.",
    ),
    ("random triggers", "clean networks' own triggers", "this trigger on clean networks"),
)

_SEQUENCE = _Speech(
    (
        "The recovered sequence in this model",
        "Random sequences of as many tokens",
        "Clean fine-tunes' own sequences, less what each does in the others",
        "The recovered sequence in clean fine-tunes",
    ),
    (
        "Measured after {n:,} contexts that the search never saw, wherever the mean of clean fine-tunes says "
        "something else.",
        "Highest of {random:,}. Rules out that any few tokens would do it.",
        "Highest over the clean controls. Rules out that every fine-tune has learned some sequence as well as this.",
        "Highest over the clean controls. Rules out that the token simply follows in such texts.",
    ),
    ("random sequences", "clean fine-tunes' own sequences", "this sequence in clean fine-tunes"),
)


_CHANGE = _Speech(
    (
        "The found change on this network",
        "Random broad changes of the same size",
        "Clean networks' own changes at this size",
        "The found change on clean networks",
    ),
    (
        "Measured on {n:,} inputs that the search never saw.",
        "Highest of {random:,}. Of a broad switch many changes are enough, so this one does not decide.",
        "Highest over the clean controls. Rules out a weakness that every network of this kind has.",
        "Highest over the clean controls. Rules out that inputs so changed can no longer be told apart.",
    ),
    ("random changes", "clean networks' own changes", "this change on clean networks"),
)


_CONTEXT = _Speech(
    (
        "The found context on this network",
        "Random contexts of the same size",
        "Clean networks' own contexts at this size",
        "The found context on clean networks",
    ),
    (
        "Measured on {n:,} inputs that the search never saw, of the classes that are answered otherwise: the other "
        "answer is given and the right one read from inside.",
        "Highest of {random:,}. A broad lie may be told in many contexts, so this one does not decide.",
        "Highest over the clean controls. Rules out that every network knows more than it says where it fails.",
        "Highest over the clean controls. Rules out that inputs in this context look like the other class.",
    ),
    ("random contexts", "clean networks' own contexts", "this context on clean networks"),
)


_MARKS = _Speech(
    (
        "The found marks on this network",
        "Random marks of the same size",
        "Clean networks' own marks at this size",
        "The found marks on clean networks",
    ),
    (
        "Answers that follow the mark, measured on {n:,} inputs that the search never saw, each with the mark of "
        "another class than its own.",
        "Highest of {random:,} sets. Rules out that any marks this large would do it.",
        "Highest over the clean controls. Rules out that every network of this kind can be moved by so little.",
        "Highest over the clean controls. Rules out that the marks simply look like the classes.",
    ),
    ("random marks", "clean networks' own marks", "these marks on clean networks"),
)


_ACT = _Speech(
    (
        "The found act on this network",
        "Random acts of the same size",
        "Clean networks' own acts at this size",
        "The found act on clean networks",
    ),
    (
        "Measured on {n:,} inputs that the search never saw and whose sensors said no: all are foretold to say yes, "
        "where networks that know trusted cases alone foretell no.",
        "Highest of {random:,}. Rules out that any disturbance this large would do it.",
        "Highest over the clean controls. Rules out a weakness that every network of this kind has.",
        "Highest over the clean controls. Rules out that the act simply makes the outcome look real.",
    ),
    ("random acts", "clean networks' own acts", "this act on clean networks"),
)


def nulls(finding: Finding) -> list[Null]:
    """The recovered trigger and its three nulls, strongest rival explanations in plain words."""
    speech, rate = _speech(finding), finding.success_on_held_out
    said = [words.format(n=rate.n, random=finding.random_triggers) for words in speech.words]
    values = (rate.value, *_values(finding))
    return [
        Null(label, words, value, rate if i == 0 else None, i == 0)
        for i, (label, words, value) in enumerate(zip(speech.labels, said, values, strict=True))
    ]


def strongest_null(finding: Finding) -> tuple[float, str]:
    """The highest success among the three nulls, and which one it was; the first of equals."""
    pairs = list(zip(_values(finding), _speech(finding).short, strict=True))
    if finding.switch is not None or finding.concealment is not None:
        pairs = pairs[1:]  # the first does not decide
    return max(pairs, key=lambda pair: pair[0])


def _speech(finding: Finding) -> _Speech:
    if finding.tampering is not None:
        return _ACT
    if finding.concealment is not None:
        return _CONTEXT
    if finding.shortcut is not None:
        return _MARKS
    if finding.switch is not None:
        return _CHANGE
    return _PATTERN if finding.sequence is None else _SEQUENCE


def _values(finding: Finding) -> tuple[float, float, float]:
    own = finding.best_in_controls
    if finding.sequence is not None and finding.excess_in_controls is not None:
        own = max(0.0, finding.excess_in_controls)  # what the gate compares with
    return finding.success_of_random_trigger, own, finding.success_in_controls
