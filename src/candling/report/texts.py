"""Untrusted texts: how many stand out, how many harmless ones would, and where in each the oddest token is."""

from __future__ import annotations

import math
from dataclasses import dataclass

from candling.evidence.untrusted import FlaggedText, Untrusted
from candling.report import numerals
from candling.report.tokens import Chip, chip, running

TEXTS = 20
AROUND = 12
"""Tokens shown on either side of the most unusual one."""


@dataclass(frozen=True)
class Row:
    line: int
    score: float
    p_value: float
    before: str
    at: Chip
    after: str


@dataclass(frozen=True)
class Shown:
    """What the section on untrusted texts shows."""

    flagged: str
    copies: str
    false_alarms: str
    tells_little: bool
    """Whether no larger a share is flagged than harmless text of another sort may give."""
    rows: list[Row]
    left: str


def show(found: Untrusted) -> Shown:
    rows = [_row(text) for text in found.texts[:TEXTS]]
    share = found.flagged / found.n if found.n else 0.0
    return Shown(
        flagged=_flagged(found),
        copies=_copies(found.near_copies),
        false_alarms=_false_alarms(found),
        tells_little=found.flagged > 0 and not share > found.benign_novel.high,
        rows=rows,
        left=_left(found, len(rows)),
    )


def _row(text: FlaggedText) -> Row:
    at = min(max(text.at, 0), len(text.tokens) - 1) if text.tokens else 0
    start, stop = max(0, at - AROUND), at + 1 + AROUND
    before, after = running(text.tokens[start:at]).lstrip(" "), running(text.tokens[at + 1 : stop])
    return Row(
        text.line,
        text.score,
        text.p_value,
        f"… {before}" if start > 0 else before,
        chip(text.tokens[at] if text.tokens else ""),
        f"{after} …" if stop < len(text.tokens) else after,
    )


def _flagged(found: Untrusted) -> str:
    noun = "text is" if found.flagged == 1 else "texts are"
    said = f"{found.flagged:,} of {found.n:,} untrusted {noun} flagged"
    if not math.isfinite(found.threshold):
        return f"{said}."
    expected = numerals.roughly(found.threshold * found.n)
    return (
        f"{said}: more unusual than all but {numerals.number(100 * found.threshold)} % of held-out trusted texts. "
        f"Of as many texts like the trusted ones, about {expected} would be."
    )


def _copies(n: int) -> str:
    if n == 0:
        return "None nearly repeats a trusted text."
    return f"{n:,} nearly {'repeats' if n == 1 else 'repeat'} a trusted text."


def _false_alarms(found: Untrusted) -> str:
    rate = found.benign_novel
    digits = numerals.digits_for(rate.n)
    share = f"{numerals.percent(rate.value, digits)} {numerals.span(rate.low, rate.high, digits)}"
    return f"On harmless text of another sort it raises {share} false alarms: {numerals.of(rate)} texts."


def _left(found: Untrusted, shown: int) -> str:
    """What the table leaves out; empty where it holds every flagged text."""
    left = max(found.flagged, len(found.texts)) - shown
    if left <= 0:
        return ""
    kept = len(found.texts) - shown
    held = f"the record holds {kept:,} of them" if kept else "the record holds none of them"
    return f"{left:,} less unusual {'text is' if left == 1 else 'texts are'} left out here; {held}."
