"""The child process of `chat`: renders conversations by a chat template that may be hostile, and exits.

It is run as a file, so that jinja2 is all that is imported. Requests come as JSON on standard input, texts or a fault
go as JSON to standard output. Three walls: jinja2's immutable sandbox, in which a forbidden attribute ends the
rendering at once; limits on time, memory and what is written; and no file can be opened any more, nor a socket
or a program started. Nothing depends on the clock, a random number or the order of a set.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn

import jinja2
import jinja2.ext
import jinja2.meta
import jinja2.nodes
import jinja2.parser
import jinja2.sandbox
import jinja2.utils

LONGEST = 1 << 20
"""Most characters of a rendered conversation."""
UNSAFE, BROKEN, LIMIT = "unsafe", "broken", "limit"

Message = Mapping[str, str]
_TODAY = datetime(2024, 7, 26)  # what templates fall back to that are given no date


class _TooLong(Exception):
    """A rendering without an end."""


class _Sandbox(jinja2.sandbox.ImmutableSandboxedEnvironment):
    def unsafe_undefined(self, obj: Any, attribute: str) -> NoReturn:
        """Refused when it is reached for, not only when it is used."""
        raise jinja2.exceptions.SecurityError(f"reaches for {attribute!r} of a {type(obj).__name__}")


class _Generation(jinja2.ext.Extension):
    """`{% generation %}` marks what the assistant says, for others; here it changes nothing."""

    tags = {"generation"}  # noqa: RUF012 -- as jinja2 wants it

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node | list[jinja2.nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Namespace(jinja2.utils.Namespace):
    """No attribute of its own begins with an underscore."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        own = dict(*args[1:], **kwargs)
        for name in own:
            _check_name(name)
        jinja2.utils.Namespace.__init__(args[0], own)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)


def _check_name(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise jinja2.exceptions.SecurityError(f"stores {name!r}")


class _Dict:
    """`dict` as a function alone: nothing of the class can be reached."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)


def environment() -> jinja2.Environment:
    """What chat templates expect, and nothing whose answer changes from one day to the next."""
    made = _Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols])
    made.filters["tojson"] = _json
    made.filters.pop("random")
    made.globals.pop("lipsum")
    made.globals |= {
        "raise_exception": _raise,
        "strftime_now": _TODAY.strftime,
        "dict": _Dict(),
        "namespace": _Namespace,
    }
    return made


def _raise(message: object) -> NoReturn:
    raise jinja2.exceptions.TemplateError(str(message))


def _json(value: Any, ensure_ascii: bool = False, indent: int | None = None, sort_keys: bool = False) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, sort_keys=sort_keys)


def compiled(source: str) -> jinja2.Template:
    """Raises SecurityError for a template that names others, TemplateError for one that is none."""
    sandbox = environment()
    if any(True for _ in jinja2.meta.find_referenced_templates(sandbox.parse(source))):
        raise jinja2.exceptions.SecurityError("names another template to be read")
    return sandbox.from_string(source)


def spoken(template: jinja2.Template, chat: Sequence[Message], names: Mapping[str, str]) -> list[Any]:
    """[text, spans]: the conversation up to the assistant's last word, and [from, to) of what the assistant says.

    A span is what changes with the words of that turn, and whatever ends a turn: what follows the last one, as far
    as it follows this one too. Raises TemplateError where the template leaves an assistant's words out.
    """
    turns = [place for place, message in enumerate(chat) if message["role"] == "assistant"]
    chat = chat[: turns[-1] + 1]
    text = rendered(template, chat, names)
    spans = []
    for place in turns:
        other = [*chat[:place], {**chat[place], "content": _unlike(chat[place]["content"])}, *chat[place + 1 :]]
        spans.append(_changed(text, rendered(template, other, names)))
    ending = text[spans[-1][1] :]
    later = [start for start, _ in spans[1:]] + [len(text)]
    for span, limit in zip(spans, later, strict=True):
        span[1] = min(span[1] + _common(text[span[1] : span[1] + len(ending)], ending), limit)
    return [text, spans]


def asked(template: jinja2.Template, chat: Sequence[Message], names: Mapping[str, str]) -> list[Any]:
    """[text, no spans]: the conversation, and the start of an answer."""
    return [rendered(template, chat, names, answer=True), []]


def rendered(
    template: jinja2.Template, chat: Sequence[Message], names: Mapping[str, str], *, answer: bool = False
) -> str:
    pieces, length = [], 0
    for piece in template.generate(
        **names,
        messages=[dict(message) for message in chat],
        add_generation_prompt=answer,
        tools=None,
        documents=None,
    ):
        length += len(piece)
        if length > LONGEST:
            raise _TooLong(f"writes more than {LONGEST:,} characters for one conversation")
        pieces.append(piece)
    return "".join(pieces)


def _unlike(words: str) -> str:
    """One letter that the words neither begin nor end with, spaced or not."""
    ends = {part[at] for part in (words, words.strip()) if part for at in (0, -1)}
    return next(letter for letter in "abcde" if letter not in ends)


def _changed(text: str, other: str) -> list[int]:
    start = _common(text, other)
    if start == len(text) == len(other):
        raise jinja2.exceptions.TemplateError("it leaves out what the assistant says")
    end = _common(text[start:][::-1], other[start:][::-1])
    if start == len(text) - end:
        raise jinja2.exceptions.TemplateError("it leaves out what the assistant says")
    return [start, len(text) - end]


def _common(one: str, other: str) -> int:
    """Length of the common start."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        same = one[low:middle] == other[low:middle]
        low, high = (middle, high) if same else (low, middle - 1)
    return low


def warm() -> None:
    """Has Python and jinja2 read what they only read at need: afterwards nothing can be read."""
    with contextlib.suppress(jinja2.exceptions.TemplateError):
        compiled("{{ 'a\\n' | trim | tojson }}{{ strftime_now('%d %b') }}{{ raise_exception('b') }}").render()
    with contextlib.suppress(jinja2.exceptions.TemplateError):
        compiled("{% generation %}{% for a in [1] %}")


def confine(seconds: int, megabytes: int) -> None:
    """Limits on time and on memory beyond what is in use; nothing is opened or written any more."""
    with contextlib.suppress(ImportError):
        import resource

        used = resource.getrusage(resource.RUSAGE_SELF)
        spent = int(used.ru_utime + used.ru_stime) + 1
        limits = {resource.RLIMIT_CORE: 0, resource.RLIMIT_FSIZE: 0, resource.RLIMIT_CPU: spent + seconds}
        with contextlib.suppress(OSError, ValueError), open("/proc/self/statm") as file:
            in_use = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
            limits[resource.RLIMIT_AS] = in_use + (megabytes << 20)
        limits[resource.RLIMIT_NOFILE] = 3  # standard input, output and error stay open
        for kind, limit in limits.items():
            with contextlib.suppress(OSError, ValueError):
                resource.setrlimit(kind, (limit, limit))


def answer(request: Mapping[str, Any]) -> dict[str, Any]:
    """`texts`, one for each conversation, or a `fault` with its kind, the conversation's number (from 1) and why."""
    number = 0
    render = asked if request["answer"] else spoken
    try:
        template = compiled(request["template"])
        texts = []
        for number, chat in enumerate(request["chats"], 1):  # noqa: B007 -- named in the fault
            texts.append(render(template, chat, request["names"]))
    except jinja2.exceptions.SecurityError as fault:
        return _fault(UNSAFE, number, fault)
    except (_TooLong, MemoryError) as fault:
        return _fault(LIMIT, number, fault if fault.args else "takes more memory than it may")
    except Exception as fault:
        return _fault(BROKEN, number, fault)
    return {"texts": texts}


def _fault(kind: str, number: int, why: object) -> dict[str, Any]:
    try:
        said = str(why)[:400]
    except Exception:
        said = type(why).__name__
    return {"fault": kind, "number": number, "why": said or type(why).__name__}


def main() -> int:
    request = json.load(sys.stdin)
    warm()
    confine(request["seconds"], request["megabytes"])
    try:
        said = json.dumps(answer(request))
    except MemoryError:
        said = json.dumps(_fault(LIMIT, 0, "takes more memory than it may"))
    sys.stdout.write(said)
    sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
