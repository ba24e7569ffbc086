"""Tokens of a language model as a reader sees them: chips, and running text, white space and all."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from candling.report.text import clip, visible

LONGEST = 40
"""Characters of one token that are shown."""

_MARKS = str.maketrans({" ": "␣", "\n": "⏎", "\t": "⇥"})
_OWN = str.maketrans({c: f"\\u{ord(c):04x}" for c in "␣⏎⇥\u3000"} | {"\u00a0": "\\xa0"})
_SEVERAL = re.compile(r"  +")
_ENDS = re.compile(r"^ +| +$")
_UNSEEN = r"(?:[␣⏎⇥]|\\(?:r|x[0-9a-f]{2}|u[0-9a-f]{4}|U[0-9a-f]{8}))*"
_AROUND = re.compile(f"({_UNSEEN})(.*?)({_UNSEEN})", re.DOTALL)


@dataclass(frozen=True)
class Chip:
    """One token: the white space and escapes that it begins with, its text, and those that it ends with."""

    lead: str
    body: str
    tail: str
    called: bool = False
    """Whether it is the token that the trigger calls up."""


def marked(token: str) -> str:
    """White space as `␣`, `⏎` and `⇥`, what cannot be seen as an escape; such a sign of its own is one too."""
    return visible(token.translate(_OWN).translate(_MARKS))


def chip(token: str, target: str | None = None) -> Chip:
    """A token of at most `LONGEST` characters; `target` is the one that the trigger calls up."""
    parts = _AROUND.fullmatch(marked(clip(token, LONGEST)))
    lead, body, tail = parts.groups() if parts else ("", "", "")
    return Chip(lead, body, tail, token == target)


def chips(tokens: Sequence[str], target: str | None = None) -> list[Chip]:
    """As many chips as tokens; of the first alone it is said whether the trigger calls it up."""
    return [chip(token, target if i == 0 else None) for i, token in enumerate(tokens)]


def running(tokens: Sequence[str]) -> str:
    """Tokens as one text. White space is marked but for single spaces."""
    return _marked_where(_SEVERAL, "".join(clip(token, LONGEST) for token in tokens).translate(_OWN))


def quoted(tokens: Sequence[str]) -> str:
    """Tokens as a quotation in a sentence: `“␣was m”`. Spaces at its ends are marked too."""
    text = _marked_where(_ENDS, running(tokens))
    return f"“{clip(text, 2 * LONGEST)}”"


def _marked_where(spaces: re.Pattern[str], text: str) -> str:
    text = spaces.sub(lambda run: "␣" * len(run[0]), text)
    return visible(text.replace("\n", "⏎").replace("\t", "⇥"))
