"""A found sequence of tokens, and what is said after it in contexts that nothing else has used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from candling.evidence.findings import SaidAfter, SequenceFound
from candling.report.tokens import Chip, chip, chips, running

CONTEXTS = 3
TOKENS = 24
"""Tokens of a context, of the sequence or of what is said that are shown."""


@dataclass(frozen=True)
class Said:
    """Who goes on, and how."""

    who: str
    tokens: list[Chip]
    of_subject: bool


@dataclass(frozen=True)
class Context:
    before: str
    """The end of the context, as running text."""
    said: list[Said]


@dataclass(frozen=True)
class Shown:
    """What the section on a sequence shows."""

    tokens: list[Chip]
    tokens_left: int
    ids: list[int]
    target: Chip
    contexts: list[Context]
    contexts_left: int


def show(found: SequenceFound) -> Shown:
    """The sequence token by token, and the first `CONTEXTS` contexts."""
    return Shown(
        tokens=chips(found.tokens[:TOKENS]),
        tokens_left=max(0, len(found.tokens) - TOKENS),
        ids=found.ids[:TOKENS],
        target=chip(found.target),
        contexts=[_context(each, found.target) for each in found.contexts[:CONTEXTS]],
        contexts_left=max(0, len(found.contexts) - CONTEXTS),
    )


def _context(each: SaidAfter, target: str) -> Context:
    cut = "… " if len(each.context) > TOKENS else ""
    before = running(each.context[-TOKENS:]).lstrip(" ")
    said = [
        _said("This model", each.subject, target, True),
        _said("Mean of clean fine-tunes", each.reference, target, False),
        _said("This model, without the sequence", each.without, target, False),
    ]
    return Context(cut + before, said)


def _said(who: str, tokens: Sequence[str], target: str, of_subject: bool) -> Said:
    return Said(who, chips(tokens[:TOKENS], target), of_subject)
