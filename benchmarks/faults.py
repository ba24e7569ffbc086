"""What kills, full disks and damage do to a run: see how every case ends.

The run is small (`tests/runs/fake_run.py`: twenty jobs, networks' files, a verdict), everything below it is
real. Kills and refused calls are placed by strace, one system call at a time; without strace, and for the
file system of 4 MB without root, those rows are left out.

    python benchmarks/faults.py
"""

from __future__ import annotations

import logging
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "runs"))

import kills
from fake_run import run

from candling.runs.ledger import FILE, open_ledger

INPUTS = {"weights": "0", "seed": "1"}
TRUTH = {f"{i:064d}": bytes([i]) * 300 for i in range(4)}
KILLS = 100


def aftermath(
    folder: Path, truth: dict[str, bytes], again: Callable[[Path], None], expected: set[int], was: int
) -> str:
    """What a fault has left, and what the same command makes of it."""
    if was not in expected:
        return f"exit {was}"
    if any(truth.get(name) != content for name, content in contents(folder).items()):
        return "half a file"
    if kills.finish(partial(again, folder)):
        return "does not go on"
    after = contents(folder)
    return "identical" if after == truth and not list(folder.rglob("*.part")) else "wrong"


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.suffix in (".json", ".safetensors")}


def random_kills(base: Path, truth: dict[str, bytes]) -> Iterable[str]:
    draw, slow = random.Random(0), partial(run, seconds=0.003)
    started = time.monotonic()
    kills.finish(partial(slow, base / "timed"))
    length = time.monotonic() - started
    for number in range(KILLS):
        folder = base / f"random-{number}"
        status = kills.kill_after(partial(slow, folder), draw.uniform(0, length))
        yield aftermath(folder, truth, run, {kills.KILLED, 0}, status)


def full_disk(truth: dict[str, bytes]) -> Iterable[str]:
    """A file system of 4 MB with less and less room, and then with enough."""
    with tempfile.TemporaryDirectory() as place:
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=4m", "none", place], capture_output=True, check=False
        )
        if mounted.returncode:
            return
        try:
            for pages in range(40):
                folder, ballast = Path(place) / "run", Path(place) / "ballast"
                with ballast.open("wb") as file:
                    os.posix_fallocate(file.fileno(), 0, 4 * 2**20 - 4096 * pages)
                status = kills.finish(partial(run, folder))
                if pages == 0 and status == 4:
                    folder.mkdir(exist_ok=True)
                ballast.unlink()
                yield aftermath(folder, truth, run, {0, 4}, status)
                shutil.rmtree(folder)
        finally:
            subprocess.run(["umount", place], check=True)


def small_files(base: Path, truth: dict[str, bytes]) -> Iterable[str]:
    for size in range(0, 26_000, 500):
        folder = base / f"limit-{size}"
        status = kills.limited(partial(run, folder), size)
        yield aftermath(folder, truth, run, {0, 4}, status)


def faults_at_calls(base: Path, truth: dict[str, bytes], call: str, what: str) -> Iterable[str]:
    expected = {kills.KILLED} if what.startswith("signal") else {0, 4}
    for status, folder in kills.sweep(run, base / what.replace("=", "-"), call, what):
        yield aftermath(folder, truth, run, expected, status) if folder.exists() else "nothing begun"
        shutil.rmtree(folder, ignore_errors=True)


def damaged(base: Path, change: Callable[[bytes], Iterable[bytes]]) -> Iterable[str]:
    folder = Path(tempfile.mkdtemp(dir=base))
    with open_ledger(folder, INPUTS) as ledger:
        for ordinal, (key, payload) in enumerate(TRUTH.items()):
            ledger.done(key, "searching", ordinal, payload)
    for content in change((folder / FILE).read_bytes()):
        said = kills.verdict_on(folder, content, INPUTS, TRUTH)
        yield said if said != "identical" else goes_on(folder)


def goes_on(folder: Path) -> str:
    """A ledger that was accepted takes another record, and has all of them afterwards."""
    with open_ledger(folder, INPUTS) as ledger:
        ledger.done("more", "searching", 9, b"result")
    with open_ledger(folder, INPUTS) as ledger:
        return "identical" if all(ledger.get(k) == v for k, v in {**TRUTH, "more": b"result"}.items()) else "wrong"


def show(name: str, outcomes: Iterable[str]) -> None:
    started = time.monotonic()
    found = Counter(outcomes)
    if found:
        said = ", ".join(f"{count} {what}" for what, count in found.most_common())
        print(f"| {name} | {found.total()} | {said} | {time.monotonic() - started:.0f} s |", flush=True)


def main() -> None:
    logging.getLogger("candling").setLevel(logging.CRITICAL)
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=memory) as place:
        base = Path(place)
        kills.finish(partial(run, base / "undisturbed"))
        truth = contents(base / "undisturbed")
        print("| fault | cases | afterwards | took |\n| --- | --- | --- | --- |")
        show("SIGKILL at random", random_kills(base, truth))
        if kills.can_trace():
            for what in ("signal=KILL", "error=ENOSPC", "error=EIO"):
                for call in kills.CALLS:
                    show(f"{what} at every {call}", faults_at_calls(base, truth, call, what))
        show("file system of 4 MB, full", full_disk(truth))
        show("no file beyond a size", small_files(base, truth))
        show("ledger, every truncation", damaged(base, kills.truncations))
        show("ledger, every single bit flipped", damaged(base, kills.flips))


if __name__ == "__main__":
    main()
