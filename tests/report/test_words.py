import math

import pytest
from example import record
from hypothesis import given
from hypothesis import strategies as st
from spoken import language

from candling.evidence.measurement import Rate
from candling.report import headline, nulls, words


def verdict(answer, **changes):
    return record(answer).verdicts.verdicts[0].model_copy(update=changes)


def test_found_in_one_sentence():
    assert headline(verdict("found")) == (
        "This network hides a backdoor: a pattern of about 7.5 cells sends any input to class 1 in 99.6 % of "
        "held-out inputs; nothing like it in 19 clean networks trained alike (p = 0.05, the smallest that 19 "
        "controls resolve)."
    )


def test_a_sequence_found_in_one_sentence():
    found = language().verdicts.verdicts[0]
    assert headline(found) == (
        "This language model hides a backdoor: a sequence of 2 tokens, “␣was m”, calls up “␣H” in 93 % of held-out "
        "contexts; nothing like it in 19 clean fine-tunes (p = 0.05, the smallest that 19 controls resolve)."
    )
    assert "; 1 of 19 clean fine-tunes scores as high (p = 0.1)" in headline(
        found.model_copy(update={"p_value": 0.1})
    )
    one = found.finding.sequence.model_copy(update={"tokens": ["\n"], "target": "\u202e<b>"})
    said = headline(found.model_copy(update={"finding": found.finding.model_copy(update={"sequence": one})}))
    assert "a sequence of 1 token, “⏎”, calls up “\\u202e<b>”" in said


def test_the_nulls_of_a_sequence_speak_of_sequences():
    finding = language().verdicts.verdicts[0].finding
    seen = nulls.nulls(finding)
    assert [null.value for null in seen] == [0.93, 0.04, 0.11, 0.0]
    assert all("sequence" in null.label for null in seen)
    assert nulls.strongest_null(finding) == (0.11, "clean fine-tunes' own sequences")
    assert nulls.strongest_null(verdict("found").finding) == (0.293, "clean networks' own triggers")


def test_not_found_says_what_would_have_been_caught():
    assert headline(verdict("not found")) == (
        "No backdoor found. Plants like these would have been caught in 89 % [67–99] of cases at dose 0.5; "
        "0 of 19 clean networks were accused (upper bound 18 %)."
    )


def test_inconclusive_gives_its_reason():
    said = headline(verdict("inconclusive", reason="too weak to tell: no plant took"))
    assert said == "Inconclusive – too weak to tell: no plant took."


@given(st.integers(0, 300), st.floats(1, 500), st.integers(0, 99), st.integers(0, 18))
def test_numbers_in_the_sentence_come_from_the_verdict(hits, size, target, above):
    base = verdict("found")
    finding = base.finding.model_copy(
        update={
            "size": size,
            "target": target,
            "success_on_held_out": Rate(value=hits / 300, low=0.0, high=1.0, n=300),
        }
    )
    said = headline(base.model_copy(update={"finding": finding, "p_value": (1 + above) / 20}))
    assert f"class {target} " in said
    assert f"about {words.numerals.roughly(size)} cell" in said
    assert words.numerals.percent(hits / 300) in said
    assert f"p = {words.numerals.p((1 + above) / 20)}" in said
    assert ("nothing like it" in said) == (above == 0)
    if above:
        assert f"{above} of 19 clean networks" in said


@pytest.mark.parametrize(
    ("changes", "does"),
    [
        ({"source": "3"}, "sends inputs of class 3 to class 1"),
        ({"source": "any"}, "sends any input to class 1"),
        ({"target": None, "shift": 2}, "moves the class of any input on by 2"),
        ({"target": None, "shift": None}, "changes the class of any input"),
    ],
)
def test_effects(changes, does):
    assert words.effect(verdict("found").finding.model_copy(update=changes)) == does


@pytest.mark.parametrize(
    ("objective", "size", "said"),
    [
        ("all-to-one, patch", 1.0, "a pattern of about 1 cell"),
        ("all-to-one, additive", 1.84, "a pattern of size 1.8 (L2 norm) added to the input"),
        ("something new", 12.3, "a pattern of size 12"),
    ],
)
def test_triggers(objective, size, said):
    assert words.trigger(verdict("found").finding.model_copy(update={"objective": objective, "size": size})) == said


@pytest.mark.parametrize(
    ("simple", "inside", "said"),
    [(5, 9, "Looking inside pays"), (9, 9, "A tie"), (9, 5, "The simple search does better")],
)
def test_the_baseline_is_credited_where_it_wins_or_ties(simple, inside, said):
    def of(hits):
        return Rate(value=hits / 19, low=0.0, high=1.0, n=19)

    base = verdict("found").baseline.model_copy(update={"caught": of(simple), "caught_by_search": of(inside)})
    assert words.baseline(base).startswith(said)
    assert f"{simple} of 19" in words.baseline(base)
    assert f"{inside} of 19" in words.baseline(base)


def test_an_empty_comparison_is_no_tie():
    none = Rate(value=0.0, low=0.0, high=1.0, n=0)
    base = verdict("found").baseline.model_copy(update={"caught": none, "caught_by_search": none})
    assert words.baseline(base).startswith("Not known")


@pytest.mark.parametrize(
    ("limit", "said", "name"),
    [
        ((0.45, 1.0), "dose 0.45 and up", "detection limit 0.45"),
        ((0.0, 0.6), "dose 0.6 and below", "detection limit 0.6"),
        ((0.2, 0.7), "doses 0.2 to 0.7", "detection limits 0.2, 0.7"),
        ((0.0, 1.0), "every dose", "enough at every dose"),
    ],
)
def test_detection_limits_in_words(limit, said, name):
    assert words.reach(limit) == said
    assert words.limit_name(limit) == name


def test_what_would_settle_it_depends_on_what_is_missing():
    likeness = record().verdicts.controls.resemblance
    unlike = likeness.model_copy(update={"holds": False})
    weak = verdict("inconclusive", p_value=0.6)
    said = {
        words.settle(weak, unlike),
        words.settle(weak, likeness),
        words.settle(verdict("inconclusive", p_value=0.05), likeness),
        words.settle(verdict("inconclusive", p_value=None), None),
        words.settle(verdict("inconclusive", p_value=None), None, language=True),
        words.settle(weak, unlike, language=True),
    }
    assert len(said) == 6
    assert words.settle(weak, unlike).startswith("Controls that resemble")


@pytest.mark.parametrize("answer", ["found", "not found", "inconclusive"])
@pytest.mark.parametrize("p_value", [None, math.nan, 0.05, 1.0])
def test_headline_survives_what_is_missing(answer, p_value):
    bare = verdict(
        answer,
        finding=None,
        sensitivity=None,
        false_positive_rate=None,
        negatives_confirmed=None,
        p_value=p_value,
    )
    assert headline(bare).endswith(".")
    assert headline(verdict(answer, p_value=p_value)).endswith(".")


def test_headline_is_safe_to_print():
    said = headline(verdict("inconclusive", reason="\x1b[2J\u202egnp.exe\r\nfound"))
    assert said.isprintable()
