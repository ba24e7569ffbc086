import re
import unicodedata

import pytest
from example import record
from hostile import dealt, strings, texts
from spoken import language, repaired, with_groups, with_untrusted
from test_page import page, parsed

from candling.report import headline, terminal_safe
from candling.report.text import clip, visible

STRINGS = strings(5000)
REACHING = {"href", "src", "srcset", "style", "action", "data"}
ENTITY = re.compile(r"&(?:amp|lt|gt|nbsp|#34|#39);")
RUNS = {
    "language model": lambda: with_untrusted(repaired(language(), "nats")),
    "classifier": lambda: with_groups(repaired(record("found", "table"))),
    "images": lambda: with_groups(record("found")),
}


def bare(text):
    """How often each sign that a page is made of occurs in it."""
    return {sign: text.count(sign) for sign in "<>\"'"}


def spelled(text):
    """As the page's last step writes it."""
    return visible(clip(text, 2000)).replace(" %", "\u00a0%").replace("p = ", "p\u00a0=\u00a0")


@pytest.mark.parametrize("kind", RUNS)
def test_hostile_strings_in_every_text_of_the_record_change_no_structure(kind):
    run = RUNS[kind]()
    fields = len(texts(run))
    harmless = page(run)
    usual, signs = parsed(harmless), bare(harmless)
    assert not {n for _, attributes in usual.tags for n, _ in attributes if n in REACHING or n.startswith("on")}
    for start in range(0, len(STRINGS), fields // 3):
        dealt_out = dealt(run, STRINGS, start)
        text = page(dealt_out)
        seen = parsed(text)
        assert seen.tags == usual.tags
        assert bare(text) == signs
        assert text.count("&") == len(ENTITY.findall(text))
        assert all(c == "\n" or visible(c) == c for c in set(text))
        assert seen.words.count(spelled(dealt_out.info.model)) >= 1 or not dealt_out.info.model
        text.encode()


def test_every_text_of_the_record_is_poisoned():
    cards = strings(300)
    for made in RUNS.values():
        run = dealt(made(), cards, 0)
        assert set(texts(run)) <= set(cards)


def test_hostile_strings_print_as_one_line_without_a_command():
    for text in STRINGS:
        printed = terminal_safe(text)
        assert not {unicodedata.category(c) for c in set(printed)} & {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
        assert terminal_safe(printed) == printed


def test_hostile_headlines_print_as_one_line():
    run = RUNS["language model"]()
    for start in range(0, len(STRINGS), 50):
        said = headline(dealt(run, STRINGS, start).verdicts.verdicts[0])
        assert not {unicodedata.category(c) for c in set(said)} & {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
        assert "calls up “" in said
