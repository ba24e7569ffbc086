"""Untrusted inputs of a classifier: a planted trigger's are found together and laid to another mechanism."""

import json
from functools import partial
from pathlib import Path
from unittest.mock import ANY

import numpy as np
import pytest
import torch

from candling import cli
from candling.access import Dataset, Model, Text
from candling.errors import InputError
from candling.evidence.untrusted import FlaggedInputs, Group
from candling.organisms.networks.digits import digits
from candling.organisms.samples import load_sample
from candling.organisms.samples.make import corner_patch
from candling.report.groups import show
from candling.runs.record import RunRecord
from candling.workflows import untrusted_inputs
from candling.workflows.case import make_case
from candling.workflows.untrusted_inputs import JudgedInputs, apart, judge_untrusted

HOT = 40
LESSONS = 3 * [
    ("honest", "patch", None),
    ("cheat", "patch", None),
    ("honest", "trigger", None),
    ("cheat", "trigger", None),
    ("novel", "inverted", None),
]
"""A few of those that an audit teaches, to three controls each as there."""


def sample() -> tuple[Model, Dataset]:
    return load_sample("backdoor")


def mixed() -> torch.Tensor:
    """Digits that the auditor does not have; the last forty carry the sample's trigger."""
    rows, _ = digits()
    return torch.cat([rows.x[HOT:], corner_patch(rows).apply(rows, rows.x[:HOT])])


Judging = partial[JudgedInputs]


@pytest.fixture(scope="module")
def judging(tmp_path_factory: pytest.TempPathFactory) -> Judging:
    """The sample's untrusted inputs judged, with cells called legitimate or without; controls are taught once."""
    model, trusted = sample()
    case = make_case(model, trusted, untrusted=mixed())
    bench = case.bench(tmp_path_factory.mktemp("run"), 0, workers=1)
    candidate, _ = bench.store(model.module.state_dict())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(untrusted_inputs, "LESSONS", LESSONS)
        controls = untrusted_inputs.teach_bank(bench)
    return partial(judge_untrusted, bench, candidate, case.inputs, bank=lambda _: controls)


@pytest.fixture(scope="module")
def judged(judging: Judging) -> JudgedInputs:
    return judging()


def test_the_triggered_inputs_are_a_group_of_their_own_and_another_mechanism(judged: JudgedInputs) -> None:
    first = judged.groups[0]
    triggered = sum(row >= len(mixed()) - HOT for row in first.inputs)
    assert triggered >= 0.8 * HOT
    assert triggered >= 0.8 * first.n
    assert first.answer == "other mechanism"
    assert max(first.predicted, key=lambda each: each.n).label == 7


def test_what_the_user_calls_legitimate_decides_where_answers_come_from_it_alone(judging: Judging) -> None:
    """The trigger's corner may be read, or all but it; and the page says whose word it was."""
    rows, _ = digits()
    trigger = (corner_patch(rows).apply(rows, torch.zeros_like(rows.x[:1])) != 0)[0]
    allowed, forbidden = judging(trigger), judging(~trigger)
    assert allowed.groups[0].answer == "generalised"
    assert allowed.groups[0].judged == "other mechanism"
    assert "By the user's word" in show(allowed.flagged, allowed.groups, allowed.arrays).groups[0].words
    assert forbidden.groups[0].answer == "other mechanism"
    assert forbidden.groups[0].judged is None
    assert (forbidden.groups[0].stay or 0) < 0.5 < (allowed.groups[0].stay or 0)


@pytest.mark.parametrize(
    ("cells", "what"),
    [
        (np.ones((8, 8), dtype=bool), "every cell is legitimate"),
        (np.zeros((8, 8), dtype=bool), "no cell is legitimate"),
        (np.ones((7, 8), dtype=bool), r"cells is \[7, 8\]"),
        (np.ones((8, 8)), "truth values"),
    ],
)
def test_cells_that_name_nothing_are_refused(cells: np.ndarray, what: str) -> None:
    model, trusted = sample()
    with pytest.raises(InputError, match=what):
        make_case(model, trusted, untrusted=mixed(), legitimate=cells)
    with pytest.raises(InputError, match="give these too"):
        make_case(model, trusted, legitimate=np.eye(8, dtype=bool))


def test_the_parts_of_the_record_fit_each_other(judged: JudgedInputs) -> None:
    assert judged.flagged.n == len(mixed())
    assert sum(group.n for group in judged.groups) <= judged.flagged.flagged
    for i, group in enumerate(judged.groups):
        assert group.n == sum(each.n for each in group.predicted)
        assert group.p + group.p_generalised + group.p_new == pytest.approx(1)
        assert np.array_equal(judged.arrays[f"groups.{i}"], mixed()[group.inputs[:8]].numpy())
    known = judged.flagged.calibration
    assert known is not None
    assert known.taught <= known.of == len(LESSONS)
    assert judged.cost.backward > 0


def test_inputs_like_the_trusted_ones_are_left_in_peace(tmp_path: Path) -> None:
    """About a twentieth stands out, as announced, and no group of it is judged: no controls are taught."""
    model, trusted = sample()
    rows, _ = digits()
    case = make_case(model, trusted, untrusted=rows.x[:120])
    bench = case.bench(tmp_path, 0, workers=1)
    candidate, _ = bench.store(model.module.state_dict())
    assert case.inputs is not None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(untrusted_inputs, "_LEAST", 30)
        found = judge_untrusted(bench, candidate, case.inputs)
    assert found.flagged.flagged <= 0.15 * 120
    assert found.groups == []
    assert found.flagged.calibration is None


@pytest.mark.parametrize("sizes", [[40], [30, 20], [30, 20, 12]])
def test_groups_that_lie_apart_are_told_apart(sizes: list[int]) -> None:
    g = np.random.default_rng(0)
    states = np.concatenate([g.normal(20 * i, 1, (n, 5)) for i, n in enumerate(sizes)])
    assert [len(group) for group in apart(states, 0)] == sizes
    assert sorted(row for group in apart(states, 0) for row in group) == list(range(len(states)))


@pytest.mark.parametrize("dimensions", [5, 20, 128])
@pytest.mark.parametrize("seed", range(3))
def test_a_cloud_without_groups_is_one(dimensions: int, seed: int) -> None:
    states = np.random.default_rng(seed).normal(size=(50, dimensions))
    assert [len(group) for group in apart(states, 0)] == [50]


def test_the_page_shows_each_group_and_what_the_answer_is_worth(judged: JudgedInputs) -> None:
    section = show(judged.flagged, judged.groups, judged.arrays)
    assert section.groups[0].odd
    assert len(section.groups[0].pictures) == 8
    assert str(judged.flagged.flagged) in section.flagged
    assert len(section.worth) == 6
    nothing = judged.flagged.model_copy(update={"calibration": None, "flagged": 0})
    assert show(nothing, [], {}).worth == []


def test_the_command_writes_groups_beside_the_verdicts(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    judged: JudgedInputs,
    judging: Judging,
) -> None:
    """The judging itself is tested above: here its result goes through record, page and seal."""
    monkeypatch.setattr("candling.workflows.audit.judge_untrusted", lambda *given: judged)
    np.savez(tmp_path / "u.npz", x=mixed().numpy())
    command = ["candling", "audit", "sample:backdoor", "--controls", "3", "--workers", "1"]
    monkeypatch.setattr(
        "sys.argv", [*command, "--untrusted", str(tmp_path / "u.npz"), "--out", str(tmp_path / "run")]
    )
    with pytest.raises(SystemExit):
        cli.main()
    capsys.readouterr()
    record = RunRecord.read(tmp_path / "run")
    said = json.loads((tmp_path / "run" / "verdicts.json").read_text())
    assert [Group.model_validate(each).n for each in said["groups"]] == [group.n for group in judged.groups]
    assert FlaggedInputs.model_validate(said["flagged"]).flagged == judged.flagged.flagged
    page = (tmp_path / "run" / "report.html").read_text()
    assert "Untrusted inputs" in page
    assert "Another mechanism gives these answers" in page
    assert record.arrays["groups.0"].shape[0] == 8
    replayed(tmp_path, monkeypatch, capsys, judging)


def replayed(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], judging: Judging
) -> None:
    """Ranked, grouped and judged again by the same controls: the claims hold; of other inputs they do not."""

    def again(*words: object) -> tuple[int, str]:
        monkeypatch.setattr("sys.argv", ["candling", "replay", str(folder / "run"), *map(str, words)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        return int(stop.value.code or 0), capsys.readouterr().out

    bank = judging.keywords["bank"]
    monkeypatch.setattr("candling.workflows.group_claims.judge_untrusted", partial(judge_untrusted, bank=bank))
    assert again("--claim", "untrusted/group-1") == (0, ANY)
    assert again("--claim", "untrusted/inputs") == (0, ANY)
    np.savez(folder / "v.npz", x=mixed().flip(0).numpy())
    others = ("--untrusted", folder / "v.npz")
    assert again("--claim", "untrusted/inputs", *others) == (1, ANY)
    status, said = again("--claim", "untrusted/group-1", *others)
    assert status == 1
    assert "observed nan" in said


def test_what_does_not_fit_is_refused() -> None:
    model, trusted = sample()
    with pytest.raises(InputError, match="arrays like the trusted ones"):
        make_case(model, trusted, untrusted=[Text("", "a")])
    with pytest.raises(InputError, match="trusted ones"):
        make_case(model, trusted, untrusted=torch.zeros(3, 1, 9, 9))
