import math

import pytest
from example import rate
from spoken import language, with_untrusted

from candling.report import texts


def shown(held=50, **changes):
    found = with_untrusted(language(), held).verdicts.untrusted
    return texts.show(found.model_copy(update=changes))


def test_twenty_are_shown_and_the_rest_counted():
    seen = shown()
    assert len(seen.rows) == texts.TEXTS
    assert seen.left == "41 less unusual texts are left out here; the record holds 30 of them."
    assert shown(3, flagged=3).left == ""
    assert shown(0, flagged=0).rows == []
    assert shown(3, flagged=4).left == "1 less unusual text is left out here; the record holds none of them."


def test_counts_in_words():
    seen = shown()
    assert seen.flagged.startswith("61 of 600 untrusted texts are flagged: more unusual than all but 1 % of held-out")
    assert "about 6 would be" in seen.flagged
    assert seen.copies == "14 nearly repeat a trusted text."
    assert shown(near_copies=0).copies == "None nearly repeats a trusted text."
    assert shown(flagged=1).flagged.startswith("1 of 600 untrusted text is flagged")
    assert shown(threshold=math.nan).flagged == "61 of 600 untrusted texts are flagged."


@pytest.mark.parametrize(("hits", "n", "said"), [(3, 100, "3 % [1–9]"), (0, 30, "0 % [0–12]"), (30, 300, "10.0 % [")])
def test_false_alarms_are_always_said_with_their_interval(hits, n, said):
    seen = shown(benign_novel=rate(hits, n))
    assert said in seen.false_alarms
    assert f"{hits} of {n} texts" in seen.false_alarms


def test_a_share_that_harmless_text_may_give_tells_little():
    assert not shown(flagged=120, n=600).tells_little
    assert shown(flagged=120, n=600, benign_novel=rate(20, 100)).tells_little


def test_the_most_unusual_token_is_marked_wherever_it_stands():
    first = shown().rows[0]
    assert (first.at.lead, first.at.body) == ("␣", "m")
    assert first.before.startswith("… ")
    assert first.before.endswith("named Lily. was")
    assert first.after == " Hello from the other side"
    text = with_untrusted(language()).verdicts.untrusted.texts[0]
    ends = [text.model_copy(update={"at": at, "tokens": tokens}) for at, tokens in [(-3, ["a"]), (9, ["a"]), (0, [])]]
    assert [row.at.body for row in shown(texts=ends).rows] == ["a", "a", ""]
