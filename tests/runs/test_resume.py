"""The same command goes on where it stopped, and ends in the same bytes."""

import os
import resource
import signal
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import fake_run
import pytest
import torch
from fake_run import Network, Trained, run, train

from candling.errors import InputError, JobsFailed
from candling.runs.codec import encode
from candling.runs.jobs import run_jobs
from candling.runs.ledger import FILE, open_ledger

COUNT = 4


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> bytes:
    folder = tmp_path_factory.mktemp("undisturbed")
    run(folder, count=COUNT)
    return (folder / "verdicts.json").read_bytes()


@pytest.fixture
def begun(monkeypatch) -> list[int]:
    """Seeds of the networks that are trained, in this process."""
    seeds: list[int] = []

    def counted(network: Network) -> Trained:
        seeds.append(network.seed - fake_run.SEED)
        return real(network)

    real = train
    counted.__qualname__, counted.__module__ = train.__qualname__, train.__module__
    monkeypatch.setattr(fake_run, "train", counted)
    return seeds


def verdict(folder: Path) -> bytes:
    return (folder / "verdicts.json").read_bytes()


def rows(folder: Path) -> list[tuple[str, int, str, str]]:
    with closing(sqlite3.connect(folder / FILE)) as connection:
        return connection.execute("SELECT stage, ordinal, status, note FROM jobs ORDER BY rowid").fetchall()


def test_what_is_done_is_not_done_again(tmp_path, undisturbed, begun):
    for _ in range(2):
        run(tmp_path, count=COUNT)
        assert begun == [0, 1, 2, 3]
        assert verdict(tmp_path) == undisturbed
    assert len(rows(tmp_path)) == 2 * COUNT


def test_progress_starts_with_what_is_there(tmp_path):
    calls = []
    run(tmp_path, count=2)
    run(tmp_path, count=COUNT, progress=lambda *call: calls.append(call))
    assert calls == [(stage, done, COUNT) for stage in ("training", "searching") for done in (2, 3, 4)]


def test_a_moved_folder_is_the_same_run(tmp_path, undisturbed, begun):
    run(tmp_path / "here", count=2)
    (tmp_path / "here").rename(tmp_path / "there")
    run(tmp_path / "there", count=COUNT)
    assert begun == [0, 1, 2, 3]
    assert verdict(tmp_path / "there") == undisturbed


def test_other_inputs_are_refused_by_name(tmp_path):
    run(tmp_path, count=1)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    with pytest.raises(InputError, match=r"trusted t\.npz"):
        run(tmp_path, count=1, trusted="1")
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


@pytest.mark.parametrize("harm", [Path.unlink, lambda path: path.write_bytes(path.read_bytes()[:-1])])
def test_a_network_that_is_missing_or_altered_is_trained_again(tmp_path, undisturbed, begun, harm, caplog):
    run(tmp_path, count=COUNT)
    stored = sorted((tmp_path / "networks").iterdir(), key=lambda path: path.stat().st_mtime_ns)[2]
    before = stored.read_bytes()
    harm(stored)
    run(tmp_path, count=COUNT)
    assert begun == [0, 1, 2, 3, 2]
    assert stored.read_bytes() == before
    assert verdict(tmp_path) == undisturbed
    assert "training, job 3" in caplog.messages[0]


# ---- jobs that fail ----


def fail_at_two(number: int) -> int:
    if number == 2 and not os.environ.get("CANDLING_TEST_MENDED"):
        raise ZeroDivisionError
    return number


@pytest.mark.parametrize("workers", [1, 2])
def test_what_was_done_before_a_fault_is_kept(tmp_path, workers, monkeypatch):
    """A fault that nobody foresaw stops the run; whatever was handed back before it is there."""
    with open_ledger(tmp_path, {}) as ledger:
        run_jobs(fail_at_two, [(0,), (1,)], stage="s", workers=workers, ledger=ledger)
        with pytest.raises(ZeroDivisionError):
            run_jobs(fail_at_two, [(n,) for n in range(4)], stage="s", workers=workers, ledger=ledger)
    assert {row[1] for row in rows(tmp_path)} >= {0, 1}
    monkeypatch.setenv("CANDLING_TEST_MENDED", "1")
    with open_ledger(tmp_path, {}) as ledger:
        calls = []
        again = run_jobs(
            fail_at_two,
            [(n,) for n in range(4)],
            stage="s",
            workers=1,
            ledger=ledger,
            progress=lambda *c: calls.append(c[1]),
        )
    assert again == [0, 1, 2, 3]
    assert calls[0] >= 2


@pytest.mark.parametrize("workers", [1, 2])
def test_memory_batches_get_smaller_and_then_the_job_fails_alone(tmp_path, undisturbed, workers):
    with pytest.raises(JobsFailed) as fault:
        run(tmp_path, count=COUNT, workers=workers, hungry={1: 100, 3: 10})
    assert fault.value.exit_code == 5
    assert str(fault.value).startswith("error[jobs]: training: job 4 (memory) failed, 3 of 4 are kept")
    assert len(str(fault.value)) <= 200
    said = {(ordinal, status, note) for _, ordinal, status, note in rows(tmp_path)}
    assert said == {(0, "done", ""), (1, "done", "batch 64"), (2, "done", ""), (3, "failed", "memory")}
    calls = []
    run(tmp_path, count=COUNT, progress=lambda *call: calls.append(call))
    assert calls[:2] == [("training", 3, COUNT), ("training", 4, COUNT)]
    assert verdict(tmp_path) == undisturbed


def test_a_job_without_a_batch_is_tried_once_more_and_then_fails():
    with pytest.raises(JobsFailed, match=r"starving: job 1 \(memory\), job 2 \(memory\) failed, 0 of 2"):
        run_jobs(starve, [(), ()], stage="starving", workers=1)


def starve() -> int:
    raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")


@dataclass(frozen=True)
class Wide:
    """A job's argument: rows that go through a layer at once."""

    batch: int

    def smaller(self) -> "Wide | None":
        return Wide(self.batch // 2) if self.batch > 64 else None


def pass_through(rows: Wide) -> int:
    """A forward pass with at most 512 MB more of address space than the process has."""
    own = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (own + (512 << 20), before[1]))
    try:
        with torch.no_grad():
            return len(torch.nn.Linear(16, 16384)(torch.zeros(rows.batch, 16)))
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")
def test_a_pass_that_the_system_gives_no_memory_is_made_in_smaller_batches(tmp_path):
    """A gigabyte where half of one may be had: the allocator fails for real, and 256 MB go through."""
    with open_ledger(tmp_path, {}) as ledger:
        done = run_jobs(
            pass_through, [(Wide(64),), (Wide(16384),), (Wide(128),)], stage="passing", workers=2, ledger=ledger
        )
    assert done[0] == 64
    assert done[2] == 128
    assert done[1] < 16384
    assert ("passing", 1, "done", f"batch {done[1]}") in rows(tmp_path)


def die(number: int) -> int:
    """Number 1 is killed, as for memory."""
    if number == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def test_a_worker_that_dies_takes_no_other_job_with_it(tmp_path):
    died = pytest.raises(JobsFailed, match=r"dying: job 2 \(memory\) failed, 1 of 2")
    with open_ledger(tmp_path, {}) as ledger, died:
        run_jobs(die, [(0,), (1,)], stage="dying", workers=2, ledger=ledger)
    assert sorted(rows(tmp_path)) == [("dying", 0, "done", ""), ("dying", 1, "failed", "memory")]


def test_a_record_of_another_kind_is_refused(tmp_path):
    with open_ledger(tmp_path, {}) as ledger:
        run_jobs(fail_at_two, [(0,)], stage="s", workers=1, ledger=ledger)
        (key,) = ledger._rows
        ledger.done(key, "s", 0, encode(1, {})[:-1])
        with pytest.raises(InputError, match="s, job 1"):
            run_jobs(fail_at_two, [(0,)], stage="s", workers=1, ledger=ledger)
