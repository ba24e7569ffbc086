"""The page of a lie: the context, what is said and what is known, beside what needs no such network."""

from __future__ import annotations

import numpy as np
from example import record

from candling.evidence.findings import ConcealmentFound
from candling.report import draw
from candling.report.nulls import nulls, strongest_null
from candling.report.numerals import percent
from candling.report.words import headline


def lying():
    run = record("found")
    lie = ConcealmentFound(
        context="a pattern of 0.30 of the range, most like waves, 2 down and 1 across (cosine 0.75)",
        answers=[1, 0, 2, 3, 4, 5, 6, 7, 8, 9],
        accuracy=0.96,
        said=0.14,
        known=0.72,
        known_at="layers.3",
        taught_in=9,
        known_untrained=0.41,
        known_input=0.38,
        known_shuffled=0.09,
    )
    finding = run.verdicts.verdicts[0].finding.model_copy(update={"concealment": lie, "located": None})
    return run.with_verdict(problem="concealment", finding=finding)


def test_the_headline_names_the_context_and_what_is_exchanged():
    said = headline(lying().verdicts.verdicts[0])
    assert "hides a lie: a context (a pattern of 0.30 of the range" in said
    assert "says another class" not in said
    assert "another class than it knows (0 → 1, 1 → 0)" in said


def test_the_page_shows_said_known_and_the_three_nulls():
    run = lying()
    arrays = {k: v for k, v in run.arrays.items() if not k.startswith("trigger.")}
    arrays |= {"context.shift": np.zeros((1, 8, 8), np.float32)}
    page = draw(run.verdicts, run.networks, arrays, run.info)
    assert "What it knows and does not say" in page
    for share in (0.14, 0.72, 0.41, 0.38):
        assert percent(share).replace(" ", "\u00a0") in page
    assert "layers.3" in page
    assert "Random contexts of the same size" in page
    assert "<h2>The context</h2>" in page


def test_random_contexts_do_not_decide():
    finding = lying().verdicts.verdicts[0].finding
    shares = [null.value for null in nulls(finding)]
    assert strongest_null(finding)[0] == max(shares[2:])
