"""Text from models and data is hostile: what the eye or the terminal would not show is spelled out."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

_SPELLED_OUT = {"Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp"}
_SPACES = {" ", "\u00a0", "\u3000"}
_STACKED_MARKS = 3

# Drawn as nothing although Unicode files them under letters, marks or symbols.
_BLANK = frozenset(
    {0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x2800, 0x3164, 0xFFA0, 0xFFFC}
    | set(range(0x180B, 0x1810))
    | set(range(0xFE00, 0xFE10))
    | set(range(0xE0100, 0xE01F0))
)

# A string command without an end loses its introducer only: what it would have swallowed stays visible.
_STRING_COMMAND = r"(?:\x1b[\]PX^_]|[\x9d\x90\x98\x9e\x9f])(?:[^\x07\x1b\x80-\x9f]*(?:\x07|\x1b\\|\x9c))?"
_CONTROL_SEQUENCE = r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]?"
_SHORT_ESCAPE = r"\x1b[ -/]*[0-~]?"
_SEQUENCE = re.compile(f"{_STRING_COMMAND}|{_CONTROL_SEQUENCE}|{_SHORT_ESCAPE}")
_BREAK = re.compile(r"[\t\n\x0b\x0c\r\x85\u2028\u2029]+")


def visible(text: str) -> str:
    """`text` with bidi, zero-width, control and otherwise unseen characters as escapes such as `\\u202e`.

    Idempotent. A pile of combining marks keeps its first three, so that it cannot smear over its neighbours.
    """
    return "".join(_spelled(text))


def terminal_safe(text: str) -> str:
    """One printable line: ANSI and OSC sequences and control characters removed, the unseen spelled out.

    Line breaks and tabs become a space, so that data cannot forge a line of output.
    """
    text = _BREAK.sub(" ", _SEQUENCE.sub("", text))
    return visible("".join(c for c in text if unicodedata.category(c) != "Cc"))


def clip(text: str, most: int = 160) -> str:
    """At most `most` characters of `text`, with a count of what is left out."""
    if len(text) <= most:
        return text
    return f"{text[:most]}… ({len(text) - most:,} characters more)"


def _spelled(text: str) -> Iterator[str]:
    marks = 0
    for character in text:
        category = unicodedata.category(character)
        marks = marks + 1 if category in {"Mn", "Me"} else 0
        unseen = category in _SPELLED_OUT or (category == "Zs" and character not in _SPACES)
        if unseen or ord(character) in _BLANK or marks > _STACKED_MARKS:
            yield _escape(character)
        else:
            yield character


def _escape(character: str) -> str:
    short = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
    if character in short:
        return short[character]
    code = ord(character)
    if code <= 0xFF:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"
