"""Strings that try to break out of a page, a terminal or a spreadsheet, and records made of nothing else."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from example import Record
from pydantic import BaseModel

KEPT = {"answer", "verdict", "role", "kind", "unit", "again"}
"""Fields with a fixed vocabulary: no text from a model or a file can be in them."""

RUN = "document.documentElement.setAttribute('data-ran','1');alert(1)"

MARKUP = (
    f"<script>{RUN}</script>",
    f"</script><script>{RUN}</script>",
    f"<!--<script>{RUN}</script>",
    f"--><script>{RUN}</script>",
    f"]]><script>{RUN}</script><![CDATA[",
    f"</title></svg></style><script>{RUN}</script>",
    f"</bdi></dd></td></table></section></main><script>{RUN}</script>",
    f'<img src="http://evil.example/i.png" onerror="{RUN}">',
    f"<svg onload={RUN}><use href='http://evil.example/u.svg#x'/></svg>",
    "<iframe src=http://evil.example/f></iframe><object data=//evil.example/o></object>",
    "<link rel=stylesheet href=http://evil.example/s.css><style>@import url(//evil.example/s)</style>",
    "<meta http-equiv=refresh content='0;url=http://evil.example/m'><base href=http://evil.example/>",
    "<a href='http://evil.example' ping='http://evil.example/p'>click</a>",
    "<form action=http://evil.example><input autofocus onfocus=alert(1)>",
    "<plaintext>",
    "<textarea>",
    "<noscript><p title='</noscript><img src=x onerror=alert(1)>'>",
    "<math><mtext><table><mglyph><style><img src=x onerror=alert(1)>",
    "<details open ontoggle=alert(1)>",
    "<x" + "<" * 40,
)
BREAKOUTS = (
    f'"><script>{RUN}</script>',
    f"'><script>{RUN}</script>",
    '" onmouseover="alert(1)',
    "' onfocus='alert(1)' autofocus='",
    "` onload=`alert(1)",
    '"/><image href="http://evil.example/x"/>',
    '" style="background:url(//evil.example/b)',
    "}*{background:url(http://evil.example/c)}",
)
ADDRESSES = (
    f"javascript:{RUN}",
    "JaVaScRiPt:alert(1)",
    "java\tscript:alert(1)",
    "data:text/html,<script>alert(1)</script>",
    "data:image/svg+xml;base64,PHN2Zz4=",
    "https://evil.example/?q=1&amp=2",
    "//evil.example/x",
    "file:///etc/passwd",
    "vbscript:msgbox(1)",
    "../../etc/passwd",
)
UNSEEN = (
    *(chr(c) for c in range(32)),
    *(chr(c) for c in range(0x7F, 0xA1)),
    *"\u061c\u200b\u200c\u200d\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2060\u2066\u2067\u2068\u2069\ufeff",
    *"\u2028\u2029\u3164\u115f\u2800\u00ad\ufffc\ufffe\uffff\ue000\U000e0041\U000e0001\U0010ffff\ufe0f\u034f",
    *"\ud800\udbff\udc00\udfff",
    "e" + "\u0301" * 40,
    "\u05e9\u05dc\u05d5\u05dd",
)
TERMINAL = (
    "\x1b[31mred\x1b[0m",
    "\x1b[2J\x1b[H",
    "\x9b2J",
    "\x1b]0;title\x07",
    "\x1b]8;;http://evil.example\x1b\\click\x1b]8;;\x1b\\",
    "\x9d52;c;cm0gLXJm\x9c",
    "\x1bP1$r\x1b\\",
    "\x1b]0;never ended",
    "\x1bc",
    "\x1b(0",
    "done\rFAILED",
    "a\x08\x08\x08b",
    "line\nfound\n",
    "\x0e\x0f\x05",
)
TEMPLATES = (
    "{{ 7 * 7 }}",
    "{% raw %}",
    "{% include 'page.html.j2' %}",
    "{# gone",
    "${7*7}",
    "{0} {name} %s %n",
    "%(x)s",
)
ENTITIES = (
    "&lt;b&gt;",
    "&#60;script&#62;",
    "&#x202e;",
    "&NewLine;",
    "&amp;lt;",
    "&",
    "&bogus",
    "\\u003cscript\\u003e",
)
CELLS = ("=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(1)", "\t=1+1", "\r=1+1", '=HYPERLINK("http://evil.example")')
MARKS = ("␣", "⏎", "⇥", "…", "–", "“", "”", "→", " ", "  ", "\u3000", "\\x1b", "\\u202e", "93 %", "p = 0.05")
SORTS = (MARKUP, BREAKOUTS, ADDRESSES, UNSEEN, TERMINAL, TEMPLATES, ENTITIES, CELLS, MARKS)


def strings(n: int, seed: int = 0) -> list[str]:
    """`n` different strings: every fragment alone, then mixtures, a few of them very long, in a mixed order."""
    rng = np.random.default_rng(seed)
    made = {"": None, "x" * 100_000: None, "<" * 20_000: None, "\u202e" * 5_000: None, "\x1b[" * 5_000: None}
    made |= dict.fromkeys(fragment for sort in SORTS for fragment in sort)
    while len(made) < n:
        sorts = rng.integers(len(SORTS), size=rng.integers(2, 6))
        picked = [SORTS[i][rng.integers(len(SORTS[i]))] for i in sorts]
        made["".join(picked)] = None
        made[f"{picked[0]}{chr(rng.integers(0x21, 0x3000))}{picked[-1]}"] = None
    kept = list(made)[:n]
    return [kept[i] for i in rng.permutation(n)]


def renamed(data: object, names: Callable[[str], str], key: str | None = None) -> object:
    """The same data with every free string replaced, equal strings by equal ones."""
    if isinstance(data, str) and key not in KEPT:
        return names(data)
    if isinstance(data, dict):
        return {k: renamed(v, names, k) for k, v in data.items()}
    return [renamed(v, names, key) for v in data] if isinstance(data, list) else data


def poisoned(run: Record, names: Callable[[str], str]) -> Record:
    """`run` with every text of its three files replaced, settings' names as well."""

    def through(what: BaseModel) -> BaseModel:
        return type(what).model_validate(renamed(what.model_dump(by_alias=True, mode="python"), names))

    info = through(run.info)
    info = info.model_copy(update={"settings": {names(k): v for k, v in info.settings.items()}})
    return Record(through(run.verdicts), through(run.networks), run.arrays, info)


def texts(run: Record) -> list[str]:
    """Every different free text of the record, in the order of its files."""
    seen: dict[str, None] = {}

    def note(text: str) -> str:
        seen[text] = None
        return text

    poisoned(run, note)
    return list(seen)


def dealt(run: Record, cards: Sequence[str], start: int) -> Record:
    """`run` with its different texts replaced by different strings: `cards` from number `start` on, in a ring."""
    order = {text: i for i, text in enumerate(texts(run))}
    return poisoned(run, lambda text: cards[(start + order[text]) % len(cards)])
