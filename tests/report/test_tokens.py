import pytest
from hypothesis import given
from hypothesis import strategies as st
from spoken import language

from candling.report import sequence
from candling.report.text import visible
from candling.report.tokens import LONGEST, chip, chips, marked, quoted, running

ANY = st.text(st.characters(codec=None, categories=None), max_size=60)


@pytest.mark.parametrize(
    ("token", "lead", "body", "tail"),
    [
        (" was", "␣", "was", ""),
        ("was", "", "was", ""),
        ("\n\n", "⏎⏎", "", ""),
        (" a b\t", "␣", "a␣b", "⇥"),
        ("\u200b", "\\u200b", "", ""),
        ("\\xe2", "\\xe2", "", ""),
        ("x\u202e", "", "x", "\\u202e"),
        ("\r\n", "\\r⏎", "", ""),
        ("\u00a0\u3000", "\\xa0\\u3000", "", ""),
        ("␣", "\\u2423", "", ""),
        ("", "", "", ""),
        ("<b>", "", "<b>", ""),
    ],
)
def test_white_space_shows(token, lead, body, tail):
    seen = chip(token)
    assert (seen.lead, seen.body, seen.tail) == (lead, body, tail)


@given(ANY)
def test_a_chip_is_all_of_its_token_and_hides_nothing(token):
    seen = chip(token[:LONGEST])
    whole = seen.lead + seen.body + seen.tail
    assert whole == marked(token[:LONGEST])
    assert visible(whole) == whole
    assert not set(whole) & set(" \n\t\u00a0\u3000")


@given(ANY, ANY)
def test_different_white_space_never_looks_alike(a, b):
    if not (set(a) | set(b)) & {"\\"}:
        assert (marked(a) == marked(b)) == (a == b)


def test_a_long_token_is_cut_with_a_count():
    assert chip("a" * 5000).body == "a" * LONGEST + f"…␣({5000 - LONGEST:,}␣characters␣more)"
    assert len(quoted(["ab"] * 5000)) < 200


@given(st.lists(ANY, max_size=6))
def test_there_are_as_many_chips_as_tokens_and_only_the_first_is_called_up(tokens):
    seen = chips(tokens, tokens[0] if tokens else None)
    assert len(seen) == len(tokens)
    assert [c.called for c in seen] == [i == 0 for i in range(len(tokens))]


@pytest.mark.parametrize(
    ("tokens", "said", "quotation"),
    [
        ([" was", " m"], " was m", "“␣was m”"),
        (["a", "  ", "b"], "a␣␣b", "“a␣␣b”"),
        (["a", "\n", "b "], "a⏎b ", "“a⏎b␣”"),
        ([" "], " ", "“␣”"),
        ([], "", "“”"),
    ],
)
def test_running_text_keeps_single_spaces(tokens, said, quotation):
    assert running(tokens) == said
    assert quoted(tokens) == quotation


def test_long_sequences_and_contexts_are_cut_with_a_count():
    found = language().verdicts.verdicts[0].finding.sequence
    long = found.contexts[0].model_copy(update={"context": [f" w{i}" for i in range(90)], "subject": [" a"] * 90})
    shown = sequence.show(found.model_copy(update={"tokens": [" x"] * 30, "ids": [1] * 30, "contexts": [long] * 5}))
    assert (len(shown.tokens), shown.tokens_left, shown.contexts_left) == (sequence.TOKENS, 6, 2)
    assert shown.contexts[0].before.startswith("… w66 w67")
    assert shown.contexts[0].before.endswith("w89")
    assert len(shown.contexts[0].said[0].tokens) == sequence.TOKENS
