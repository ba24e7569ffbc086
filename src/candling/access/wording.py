"""One-line messages about inputs that may be hostile: printable, shortened, at most 200 characters."""

from __future__ import annotations

from collections.abc import Sequence

from candling.errors import InputError, UnsafeInputError
from candling.report.text import visible

LINE = 200
"""Longest line that an error may print, its `error[CODE]: ` included."""


def printable(text: str) -> str:
    """`text` on one line, with whatever the eye would not see, odd spaces too, as visible escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in visible(text))


def shown(text: object, width: int = 40) -> str:
    """`text` made printable and shortened in the middle to `width` (at least 8) characters."""
    plain = str(text)
    if len(plain) > 2 * width:  # a name may be megabytes long: bound it before it is escaped
        plain = plain[:width] + plain[-width:]
    plain = printable(plain)
    if len(plain) <= width:
        return plain
    tail = (width - 3) // 2
    return f"{plain[: width - 3 - tail]}...{plain[-tail:]}"


def listed(items: Sequence[str], first: int = 5, width: int = 130) -> str:
    """The first few items, shortened only if they do not fit, and how many are left out."""
    few = items[:first]
    if sum(len(item) + 2 for item in few) > width:
        few = [shown(item, width // len(few) - 2) for item in few]
    rest = len(items) - len(few)
    return ", ".join(few) + (f" and {rest} more" if rest else "")


def bad_input(code: str, message: str) -> InputError:
    """The error to raise for an input that is missing, malformed or too small (exit 2)."""
    return InputError(code, _line(code, message))


def unsafe_input(code: str, message: str) -> UnsafeInputError:
    """The error to raise for an input that could run code or exhaust the machine (exit 3)."""
    return UnsafeInputError(code, _line(code, message))


def _line(code: str, message: str) -> str:
    room = LINE - len(f"error[{code}]: ")
    line = printable(message[: room + 1])
    return line if len(line) <= room else line[: room - 3] + "..."
