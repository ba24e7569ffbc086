"""Kills, full disks and refused calls: no half file, and the same command ends in the same bytes.

A sample of `benchmarks/faults.py`, which tries them all. This shows safety against a crash of the process, not
of the power.
"""

import os
import shutil
import signal
import subprocess
import time
from functools import partial
from pathlib import Path

import kills
import pytest
from fake_run import run

from candling import cli
from candling.runs.record import open_run

COUNT = 2
small = partial(run, count=COUNT)


def results(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.suffix in (".json", ".safetensors")}


@pytest.fixture(scope="module")
def truth(tmp_path_factory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("undisturbed")
    small(folder)
    return results(folder)


def check(folder: Path, truth: dict[str, bytes]) -> None:
    """Nothing half under a final name; and the same command ends in the same bytes."""
    assert all(truth.get(name) == content for name, content in results(folder).items())
    assert kills.finish(partial(small, folder)) == 0
    assert results(folder) == truth
    assert not list(folder.rglob("*.part"))


STEPS = {"pwrite64": 7, "write": 2, "fdatasync": 3, "fsync": 2, "rename": 1, "unlink": 2, "mkdir": 1}


@pytest.mark.parametrize("call", STEPS)
def test_a_kill_at_a_system_call(tmp_path, truth, call):
    if not kills.can_trace():
        pytest.skip("strace cannot attach here")
    cases = 0
    for status, folder in kills.sweep(small, tmp_path, call, "signal=KILL", STEPS[call]):
        cases += 1
        assert status == kills.KILLED
        check(folder, truth)
    assert cases


@pytest.mark.parametrize("error", ["ENOSPC", "EIO"])
@pytest.mark.parametrize("call", ["pwrite64", "write", "fdatasync", "fsync", "rename"])
def test_a_refused_system_call(tmp_path, truth, call, error):
    if not kills.can_trace():
        pytest.skip("strace cannot attach here")
    failed = 0
    for status, folder in kills.sweep(small, tmp_path, call, f"error={error}", 3 * STEPS[call]):
        assert status in (0, 4)
        failed += status == 4
        check(folder, truth)
    assert failed


def test_kills_at_random(tmp_path, truth):
    slow = partial(small, tmp_path / "run", seconds=0.01)
    for tenths in (0, 3, 5, 2, 6):
        assert kills.kill_after(slow, tenths / 100) in (kills.KILLED, 0)
    check(tmp_path / "run", truth)


@pytest.mark.parametrize("size", [0, 100, 400, 3000, 8000, 12000, 17000])
def test_no_room_for_a_file(tmp_path, truth, size):
    """What a full disk looks like to a process that is no superuser."""
    said = tmp_path / "said"
    said.touch()
    folder = tmp_path / "run"
    status = kills.limited(partial(small, folder), size)
    assert status == (4 if size < 17000 else 0)
    check(folder, truth)


@pytest.fixture
def little_disk(tmp_path):
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "none", str(place)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("only root can mount a small file system")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_says_so_and_goes_on_once_there_is_room(little_disk, tmp_path, truth):
    folder, ballast, said = little_disk / "run", little_disk / "ballast", tmp_path / "said"
    statuses = []
    for pages in range(1, 14, 2):
        with ballast.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, 4 * 2**20 - 4096 * pages)
        statuses.append(kills.finish(partial(small, folder), said))
        if statuses[-1]:
            (line,) = said.read_text().splitlines()
            assert line.startswith("error[write]: cannot ")
            assert "free space and run the same command again" in line
        ballast.unlink()
        said.unlink()
        check(folder, truth)
        shutil.rmtree(folder)
    assert statuses[0] == 4
    assert set(statuses) <= {0, 4}


# ---- other processes, and interruptions ----


def test_a_second_process_exits_with_seventy_five_and_writes_nothing(tmp_path, truth):
    folder, said = tmp_path / "run", tmp_path / "said"
    inputs = {"weights w.safetensors": "1", "trusted t.npz": "0", "seed": "8"}
    with open_run(folder, inputs):
        before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.iterdir()}
        assert kills.finish(partial(small, folder), said) == 75
        assert {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.iterdir()} == before
    assert said.read_text().startswith("error[busy]: another process works in ")
    check(folder, truth)


def wait_for(said: Path, text: str) -> None:
    for _ in range(3000):
        if said.exists() and text in said.read_text():
            return
        time.sleep(0.01)
    raise TimeoutError(text)


def test_an_interrupted_run_goes_on(tmp_path, truth):
    said = tmp_path / "said"
    slow = partial(small, tmp_path / "run", seconds=0.3, progress=lambda *call: print(*call, flush=True))
    child = kills.fork(slow, said)
    child.go()
    wait_for(said, "training 1 2")
    os.kill(child.pid, signal.SIGINT)
    assert child.wait() == 130
    (line,) = [line for line in said.read_text().splitlines() if "error" in line]
    assert line.startswith("error[interrupted]: ")
    assert "the same command goes on" in line
    calls = []
    small(tmp_path / "run", progress=lambda *call: calls.append(call))
    assert calls[0] == ("training", 1, COUNT)
    check(tmp_path / "run", truth)


def test_an_interruption_through_the_real_command_says_so(monkeypatch, capsys):
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("candling.workflows.inputs.open_inputs", stop)
    monkeypatch.setattr("sys.argv", ["candling", "audit", "sample:clean"])
    with pytest.raises(SystemExit) as status:
        cli.main()
    assert status.value.code == 130
    assert capsys.readouterr().err.startswith("error[interrupted]: ")


def test_a_second_interruption_stops_at_once(tmp_path, truth):
    """Even while the first is being tidied up, and in the middle of a run."""
    said = tmp_path / "said"

    def stuck() -> None:
        try:
            small(tmp_path / "run", seconds=0.3, progress=lambda *call: print(*call, flush=True))
        finally:
            print("tidying", flush=True)
            time.sleep(60)

    child = kills.fork(stuck, said)
    child.go()
    wait_for(said, "training 1 2")
    os.kill(child.pid, signal.SIGINT)
    wait_for(said, "tidying")
    os.kill(child.pid, signal.SIGINT)
    assert child.wait() == 130
    check(tmp_path / "run", truth)
