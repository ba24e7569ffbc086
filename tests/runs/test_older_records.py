"""Records of every released version are read: a fixture of each, made by that version's own program.

`record-0.1.0` was made by `candling audit net.py:build --weights weights.safetensors --trusted trusted.npz
--controls 3 --out run` at that version: a small network in which a bright corner means class 2. Its weights are
kept, since replay needs them; only the page is left out.
"""

from __future__ import annotations

import html
import json
import shutil
import sys
from pathlib import Path

import pytest

from candling.cli import main
from candling.runs.record import RunRecord

FIXTURES = Path(__file__).parents[1] / "fixtures"
RELEASED = ("0.1.0",)


@pytest.fixture(params=RELEASED)
def folder(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy to work in; records of 0.1.0 name their files as they were given, from the folder of the command."""
    made = Path(shutil.copytree(FIXTURES / f"record-{request.param}", tmp_path / "copy"))
    monkeypatch.chdir(made)
    return made


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    sys.argv = ["candling", *map(str, words)]
    with pytest.raises(SystemExit) as stop:
        main()
    said = capsys.readouterr()
    return int(stop.value.code or 0), said.out, said.err


def test_every_released_version_has_a_record() -> None:
    changes = (Path(__file__).parents[2] / "CHANGELOG.md").read_text()
    assert [line.split()[1] for line in changes.splitlines() if line.startswith("## ")][1:] == list(RELEASED)
    assert sorted(path.name for path in FIXTURES.glob("record-*")) == [f"record-{version}" for version in RELEASED]


def test_an_older_record_is_read_and_drawn(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = RunRecord.read(folder / "run")
    (verdict,) = record.verdicts.verdicts
    assert verdict.verdict == "found"
    status, said, _ = run(capsys, "report", "run")
    assert (status, said.strip()) == (0, "run/report.html")
    page = html.unescape((folder / "run" / "report.html").read_text()).replace("\u00a0", " ")
    assert record.verdicts.candling == json.loads((folder / "run" / "run.json").read_text())["candling"]
    assert f"candling {record.verdicts.candling}, Python" in page
    assert all(claim.sentence in page for claim in verdict.claims)


def test_an_older_record_is_replayed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every claim, on the networks that the older version trained."""
    claims = RunRecord.read(folder / "run").verdicts.verdicts[0].claims
    status, said, _ = run(capsys, "replay", "run")
    assert status == 0, said
    assert said.count("holds  ") == len(claims) >= 6


def test_a_records_words_do_nothing_to_a_terminal(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A claim's name is free text, and the record may be anybody's."""
    path, name = folder / "run" / "verdicts.json", "\x1b]0;owned\x07\rinputs\x1b[2J"
    fields = json.loads(path.read_text())
    fields["verdicts"][0]["claims"] = [fields["verdicts"][0]["claims"][0] | {"id": name}]
    path.write_text(json.dumps(fields))
    status, said, _ = run(capsys, "replay", "run")
    assert status == 0
    assert "inputs" in said
    assert said.replace("\n", "").isprintable()


def test_an_older_run_is_not_gone_on_with(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """0.1.0 kept no ledger: the folder is left as it is."""
    before = {path: path.read_bytes() for path in (folder / "run").rglob("*") if path.is_file()}
    named = ("--weights", "weights.safetensors", "--trusted", "trusted.npz")
    status, _, said = run(capsys, "audit", "net.py:build", *named, "--controls", 3, "--out", "run")
    assert status == 2
    assert said.startswith("error[out]: run is not an empty folder")
    assert len(said.splitlines()) == 1
    assert {path: path.read_bytes() for path in (folder / "run").rglob("*") if path.is_file()} == before
