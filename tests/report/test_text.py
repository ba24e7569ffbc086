import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from candling.report import terminal_safe
from candling.report.text import clip, visible

ANY = st.text(st.characters(codec=None, categories=None))


@given(ANY)
def test_visible_leaves_nothing_unseen_and_is_idempotent(text):
    shown = visible(text)
    assert not any(unicodedata.category(c) in {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"} for c in shown)
    assert visible(shown) == shown
    shown.encode("utf-8")


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126)))
def test_plain_text_passes_unchanged(text):
    assert visible(text) == text
    assert terminal_safe(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\u202eb", "a\\u202eb"),
        ("a\u200bb", "a\\u200bb"),
        ("a\x1b[31m", "a\\x1b[31m"),
        ("two\nlines\t", "two\\nlines\\t"),
        ("\U000e0041", "\\U000e0041"),
        ("\u3164", "\\u3164"),
        ("naïve Ωmega 日本語 שלום", "naïve Ωmega 日本語 שלום"),
        ("e\u0301", "e\u0301"),
        ("e" + "\u0301" * 5, "e" + "\u0301" * 3 + "\\u0301" * 2),
        ("\ud800", "\\ud800"),
    ],
)
def test_the_unseen_is_spelled_out(text, shown):
    assert visible(text) == shown


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("\x1b[1;31mred\x1b[0m", "red"),
        ("\x9b31mred", "red"),
        ("\x1b]0;new title\x07after", "after"),
        ("\x1b]8;;http://evil.example\x1b\\click\x1b]8;;\x1b\\", "click"),
        ("\x9d0;title\x9cafter", "after"),
        ("\x1bP payload \x1b\\after", "after"),
        ("\x1bcreset", "reset"),
        ("\x1b]0;never ended", "0;never ended"),
        ("done\rFAILED", "done FAILED"),
        ("one\ntwo\tthree", "one two three"),
        ("bell\x07 back\x08space \x00", "bell backspace "),
        ("\x1b\x1b[31mtwice", "twice"),
        ("a\u202eb", "a\\u202eb"),
    ],
)
def test_terminal_sequences_are_stripped(text, printed):
    assert terminal_safe(text) == printed


@given(st.lists(st.sampled_from(["\x1b", "[", "]", "31m", "\x07", "\\", "\x9b", "\x9d", "P", "x", "\r", "8;;"])))
def test_no_sequence_survives_being_torn_apart(pieces):
    printed = terminal_safe("".join(pieces))
    assert not any(unicodedata.category(c) == "Cc" for c in printed)
    assert terminal_safe(printed) == printed


def test_clip_counts_what_it_leaves_out():
    assert clip("short", 10) == "short"
    assert clip("a" * 1200, 100) == "a" * 100 + "… (1,100 characters more)"
