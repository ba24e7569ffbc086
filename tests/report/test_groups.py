"""The sections on groups of untrusted inputs and on where a finding sits."""

import pytest
from example import Record, rate, record
from spoken import language, with_groups
from test_page import page

from candling.report import located
from candling.report.groups import GROUPS, Section, show
from candling.report.page import seal_all


def section(run: Record) -> Section:
    assert run.verdicts.flagged is not None
    return show(run.verdicts.flagged, run.verdicts.groups, run.arrays)


def test_each_answer_has_its_words_and_only_another_mechanism_is_marked() -> None:
    shown = section(with_groups(record())).groups
    assert [group.odd for group in shown] == [True, False, False]
    assert [group.head.split(":")[0].split(" ")[0] for group in shown] == ["Another", "Cannot", "Generalised"]
    assert "answered class 0 (40) with" in shown[0].words
    assert "and 2 classes more" in shown[1].words


def test_images_are_shown_and_tables_are_not() -> None:
    assert [len(group.pictures) for group in section(with_groups(record())).groups] == [8, 8, 8]
    assert [len(group.pictures) for group in section(with_groups(record(kind="table"))).groups] == [0, 0, 0]


def test_groups_beyond_the_first_are_counted() -> None:
    shown = section(with_groups(record(), ["cannot tell"] * (GROUPS + 3)))
    assert len(shown.groups) == GROUPS
    assert shown.left == 3


@pytest.mark.parametrize(("inside", "outside", "wins"), [(13, 9, False), (9, 9, True), (5, 12, True)])
def test_the_page_says_so_where_the_baseline_does_as_well(inside: int, outside: int, wins: bool) -> None:
    run = with_groups(record())
    assert run.verdicts.flagged is not None
    known = run.verdicts.flagged.calibration
    assert known is not None
    changed = known.model_copy(update={"caught": rate(inside, 15), "baseline_caught": rate(outside, 15)})
    flagged = run.verdicts.flagged.model_copy(update={"calibration": changed})
    assert show(flagged, run.verdicts.groups, {}).baseline_wins is wins


def test_where_other_classes_alone_are_asked_for_the_groups_are_sealed() -> None:
    run = with_groups(record())
    text = page(run, only="backdoor")
    assert "Another mechanism gives these answers" not in text
    assert seal_all([run.verdicts.flagged, *run.verdicts.groups]) in text


def test_a_direction_is_described_as_evidence_and_units_are_named() -> None:
    words = located.show(language().verdicts.verdicts[0].finding.located)
    assert words.site == "model.layers.2"
    assert "one direction of 64 dimensions" in words.before
    assert "−0.003 nats" in words.note
    assert [bar.shown for bar in words.bars] == ["93.0 %", "2.0 %", "91.0 %"]
    units = located.show(record().verdicts.verdicts[0].finding.located)
    assert units.after == ": 2, 17, 21, 40, 63."
    assert "Where it sits" in page(language())
