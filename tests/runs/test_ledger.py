"""The ledger: what is in it is what was put there, or it is refused."""

import logging
import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import kills
import numpy as np
import pytest
import torch

from candling.errors import Busy, InputError
from candling.problems.candidates import Candidate, Thirds
from candling.problems.classifiers import CLASSIFIER
from candling.problems.contract import Bench
from candling.runs.files import locked, write_whole
from candling.runs.fingerprint import fingerprint, keys
from candling.runs.ledger import FILE, open_ledger
from candling.runs.record import open_run

INPUTS = {"weights w.safetensors": "0" * 64, "seed": "3"}
TRUTH = {f"{i:064d}": bytes([i]) * 700 * i for i in range(4)}


@pytest.fixture
def small(tmp_path) -> Path:
    with open_ledger(tmp_path, INPUTS) as ledger:
        for ordinal, (key, payload) in enumerate(TRUTH.items()):
            ledger.done(key, "searching", ordinal, payload)
    return tmp_path


def error_of(folder: Path, inputs: dict[str, str] = INPUTS) -> str:
    with pytest.raises(InputError) as fault, open_ledger(folder, inputs):
        pass
    assert "\n" not in str(fault.value)
    return str(fault.value)


def edit(folder: Path, *statements: str) -> None:
    with closing(sqlite3.connect(folder / FILE)) as connection, connection:
        for statement in statements:
            connection.execute(statement)


def test_what_is_put_in_comes_back(small):
    with open_ledger(small, INPUTS) as ledger:
        assert {key: ledger.get(key) for key in TRUTH} == TRUTH
        assert ledger.get("another") is None
        assert ledger.status("another") is None


def test_a_failed_job_is_not_there_and_can_be_done_later(small):
    for _ in range(2):
        with open_ledger(small, INPUTS) as ledger:
            ledger.failed("k", "searching", 7, "memory")
            assert ledger.get("k") is None
    with open_ledger(small, INPUTS) as ledger:
        assert ledger.status("k") == ("failed", "memory")
        ledger.done("k", "searching", 7, b"result", "batch 64")
    with open_ledger(small, INPUTS) as ledger:
        assert ledger.status("k") == ("done", "batch 64")
        assert ledger.get("k") == b"result"


def test_opening_writes_nothing(small):
    before = (small / FILE).stat().st_mtime_ns, (small / FILE).read_bytes()
    with open_ledger(small, INPUTS):
        pass
    assert ((small / FILE).stat().st_mtime_ns, (small / FILE).read_bytes()) == before
    assert [path.name for path in small.iterdir()] == [FILE]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"weights w.safetensors": "1" * 64}, "weights w.safetensors"),
        ({"seed": "4"}, "seed"),
        ({"more": "1"}, "more"),
    ],
)
def test_another_run_is_named(small, change, named):
    said = error_of(small, INPUTS | change)
    assert named in said
    assert "--out" in said
    assert ("seed" in said) == (named == "seed")


def test_a_renamed_file_is_the_same_run_and_a_setting_left_out_is_not(small):
    with open_ledger(small, {"weights renamed.safetensors": "0" * 64, "seed": "3"}):
        pass
    assert "weights" in error_of(small, {"seed": "3"})


# ---- damage ----


def test_no_truncation_is_taken_for_the_whole(small, caplog):
    caplog.set_level(logging.CRITICAL)
    content = (small / FILE).read_bytes()
    for length in {*range(0, len(content), 61), *range(0, len(content), 4096), len(content) - 1}:
        said = kills.verdict_on(small, content[:length], INPUTS, TRUTH)
        assert said == ("dropped" if length == 0 else "refused"), length


def test_no_flipped_bit_changes_a_result(small, caplog):
    caplog.set_level(logging.CRITICAL)
    content = (small / FILE).read_bytes()
    said = [kills.verdict_on(small, damaged, INPUTS, TRUTH) for damaged in kills.flips(content, step=331)]
    assert set(said) <= {"refused", "dropped", "identical"}
    assert said.count("refused") > 30
    said = [kills.verdict_on(small, damaged, INPUTS, TRUTH) for damaged in kills.flips(content[:100], step=3)]
    assert "wrong" not in said


EDITS = {
    "payload": "UPDATE jobs SET payload = x'00' WHERE ordinal = 2",
    "key": "UPDATE jobs SET key = 'x' WHERE ordinal = 2",
    "status": "UPDATE jobs SET status = 'failed' WHERE ordinal = 2",
    "note": "UPDATE jobs SET note = 'batch 64' WHERE ordinal = 2",
    "kind": "UPDATE jobs SET note = CAST(note AS BLOB) WHERE ordinal = 2",
    "sum": "UPDATE jobs SET sum = 'x' WHERE ordinal = 2",
}


@pytest.mark.parametrize("what", EDITS)
def test_an_altered_record_is_named(small, what):
    edit(small, EDITS[what])
    assert "searching, job 3" in error_of(small)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE run SET inputs = '{}'",
        "UPDATE run SET id = 'x'",
        "UPDATE run SET schema = 0",
        "UPDATE run SET schema = 'x'",
        "DELETE FROM run",
        "INSERT INTO run SELECT * FROM run",
        "INSERT INTO jobs SELECT * FROM jobs WHERE ordinal = 1",
        "DROP TABLE jobs",
        "DROP TABLE run",
        "CREATE TABLE more (x)",
        "CREATE TRIGGER t AFTER INSERT ON jobs BEGIN DELETE FROM jobs; END",
        "ALTER TABLE jobs ADD COLUMN more TEXT",
        "PRAGMA journal_mode = WAL",
        "PRAGMA user_version = 7",
    ],
)
def test_other_tables_are_damage(small, statement):
    with closing(sqlite3.connect(small / FILE, isolation_level=None)) as connection:
        connection.execute(statement)
    assert "damaged" in error_of(small)


def test_a_record_of_another_run_is_damage(small, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    with open_ledger(other, INPUTS) as ledger:
        ledger.done("key", "searching", 9, b"result")
    with closing(sqlite3.connect(small / FILE, isolation_level=None)) as connection:
        connection.execute("ATTACH ? AS other", (str(other / FILE),))
        connection.execute("INSERT INTO jobs SELECT * FROM other.jobs")
    assert "searching, job 10" in error_of(small)


def test_a_record_altered_meanwhile_is_named(small):
    with open_ledger(small, INPUTS) as ledger:
        edit(small, EDITS["payload"])
        with pytest.raises(InputError, match="job 3"):
            ledger.get(list(TRUTH)[2])
        edit(small, "DELETE FROM jobs WHERE ordinal = 1")
        with pytest.raises(InputError, match="job 2"):
            ledger.get(list(TRUTH)[1])


def test_two_runs_begun_at_once_are_told_apart(tmp_path):
    """By a random id, which every row's sum covers: a row of one is damage in the other."""
    ids = []
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        with open_ledger(tmp_path / name, INPUTS):
            pass
        with closing(sqlite3.connect(tmp_path / name / FILE)) as connection:
            ids += connection.execute("SELECT id FROM run").fetchall()
    assert ids[0] != ids[1]


def test_a_newer_ledger_is_refused_and_says_so(small):
    edit(small, "UPDATE run SET schema = 2", "ALTER TABLE jobs ADD COLUMN more TEXT")
    assert "newer" in error_of(small)


def test_a_file_that_is_no_ledger_is_refused(tmp_path):
    for content in (b"x", b"text" * 5000, b"\0" * 8192):
        (tmp_path / FILE).write_bytes(content)
        assert "damaged" in error_of(tmp_path)
        assert (tmp_path / FILE).read_bytes() == content


CUT_SHORT = """
import os, sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("PRAGMA cache_size = 1")
connection.execute("BEGIN IMMEDIATE")
connection.execute("UPDATE jobs SET payload = zeroblob(20000)")
os._exit(9)
"""


def test_a_record_that_was_cut_short_is_dropped_and_reported(small, caplog):
    subprocess.run([sys.executable, "-c", CUT_SHORT, str(small / FILE)], check=False)
    assert (small / f"{FILE}-journal").stat().st_size > 0
    with open_ledger(small, INPUTS) as ledger:
        assert {key: ledger.get(key) for key in TRUTH} == TRUTH
    assert re.search("cut short", caplog.messages[0])


# ---- the lock ----


def test_one_process_a_folder(tmp_path):
    with open_run(tmp_path, INPUTS):
        before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
        with pytest.raises(Busy) as fault, open_run(tmp_path, INPUTS):
            pass
        assert fault.value.exit_code == 75
        assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    with locked(tmp_path):
        pass


def test_a_failed_write_leaves_what_was_there(tmp_path):
    path = tmp_path / "file"
    write_whole(path, b"first")
    assert kills.limited(lambda: write_whole(path, b"x" * 5000), 1000) == 4
    assert path.read_bytes() == b"first"
    assert list(tmp_path.iterdir()) == [path]


# ---- keys ----


@dataclass(frozen=True)
class Setting:
    size: int
    data: torch.Tensor
    aside: int = field(default=0, compare=False)

    def __call__(self) -> None: ...


def work(*_: object) -> None: ...
def other_work(*_: object) -> None: ...


SETTING = Setting(1, torch.zeros(2))


def test_a_key_depends_on_all_content_and_nothing_else():
    same = [SETTING, Setting(1, torch.zeros(4)[::2]), replace(SETTING, aside=9)]
    assert len({fingerprint(value) for value in same}) == 1
    assert fingerprint(Path("/a/w.safetensors")) == fingerprint(Path("w.safetensors"))
    assert keys(work, [(1,)]) == keys(work, [(1,)]) != keys(other_work, [(1,)])
    assert keys(partial(work, 1), [()]) != keys(partial(work, 2), [()])


def test_no_two_different_arguments_have_one_key():
    values = [
        *(None, True, 1, 1.0, "1", b"1", (1,), [1], {1: 1}, {}, (), [], "", "None", 0.0, -0.0, ("1", "2"), ("12",)),
        *(
            torch.zeros(2),
            torch.zeros(2, 1),
            torch.zeros(0, dtype=torch.int16),
            torch.zeros(1).expand(1),
            torch.zeros(2).double(),
            torch.tensor([0.0, -0.0]),
            np.zeros(2),
        ),
        *(
            np.zeros(2, dtype=np.float32),
            np.zeros((2, 1)),
            np.float64(0),
            Path("a"),
            Path("b"),
            "a",
            work,
            other_work,
        ),
        *(SETTING, replace(SETTING, size=2), replace(SETTING, data=torch.ones(2))),
    ]
    assert len({fingerprint(value) for value in values}) == len(values)


def test_equal_jobs_have_keys_of_their_own():
    assert len(set(keys(work, [(1,), (1,), (2,), (1,)]))) == 4
    assert keys(work, [(1,), (2,)])[1] == keys(work, [(2,)])[0]


@pytest.mark.parametrize(
    "value",
    [object(), torch.nn.Linear(1, 1), lambda: 0, SETTING.__call__, iter([]), {1}],
    ids=["object", "network", "lambda", "method", "iterator", "set"],
)
def test_what_has_no_content_is_no_argument(value):
    with pytest.raises(TypeError, match=r"content|belongs"):
        fingerprint(value)


class Architecture:
    name, sha256 = "folder/net.py:build", "0" * 64


def test_a_bench_is_its_content_not_where_and_how_it_is_run():
    thirds = Thirds(*(torch.zeros(n) for n in (1, 2, 3)))
    bench = Bench(CLASSIFIER, Architecture(), thirds, Path("run"))
    for same in (replace(bench, folder=Path("moved")), replace(bench, workers=3), replace(bench, progress=print)):
        assert fingerprint(same) == fingerprint(bench)
    for other in ({"seed": 1}, {"batch": 64}, {"device": "cuda"}, {"thirds": Thirds(*[torch.zeros(1)] * 3)}):
        assert fingerprint(replace(bench, **other)) != fingerprint(bench)


def test_batches_are_halved_down_to_sixty_four():
    candidate = Candidate(Architecture(), Path("w"), batch=200)
    sizes = []
    while candidate is not None:
        sizes.append(candidate.batch)
        candidate = candidate.smaller()
    assert sizes == [200, 100, 64]
