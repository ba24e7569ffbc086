"""Ways to hurt a run: children of this process that are killed, starved or refused at one exact system call."""

from __future__ import annotations

import ctypes
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

from candling import cli
from candling.errors import CandlingError
from candling.runs.ledger import FILE, open_ledger

CALLS = ("pwrite64", "write", "fdatasync", "fsync", "rename", "unlink", "ftruncate", "mkdir")
KILLED = -signal.SIGKILL
_ANY_TRACER = (0x59616D61, ctypes.c_ulong(-1))


@dataclass
class Child:
    """A forked process that waits for `go`, then does something and exits with the command's status."""

    pid: int
    gate: int

    def go(self) -> None:
        os.write(self.gate, b"!")
        os.close(self.gate)

    def wait(self) -> int:
        """Its exit status, or minus the signal that ended it."""
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def fork(action: Callable[[], None], said: Path | None = None) -> Child:
    """A command that does this. Much faster than a new process: everything is imported already.

    said: file for what it prints.
    """
    hold, gate = os.pipe()
    pid = os.fork()
    if pid:
        os.close(hold)
        return Child(pid, gate)
    status = 71
    try:
        os.close(gate)
        ctypes.CDLL(None).prctl(*_ANY_TRACER)
        prints = os.open(said or os.devnull, os.O_RDWR | os.O_CREAT)
        os.dup2(prints, 1)
        os.dup2(prints, 2)
        sys.stdout = open(1, "w", closefd=False, buffering=1)  # noqa: SIM115 -- pytest holds the usual ones
        sys.stderr = open(2, "w", closefd=False, buffering=1)  # noqa: SIM115
        os.read(hold, 1)
        cli.app = lambda **_: action()  # type: ignore[assignment]
        cli.main()
    except SystemExit as stop:
        status = int(stop.code or 0)
    finally:
        os._exit(status)


def finish(action: Callable[[], None], said: Path | None = None) -> int:
    child = fork(action, said)
    child.go()
    return child.wait()


def kill_after(action: Callable[[], None], seconds: float) -> int:
    child = fork(action)
    child.go()
    time.sleep(seconds)
    os.kill(child.pid, signal.SIGKILL)
    return child.wait()


def limited(action: Callable[[], None], size: int) -> int:
    """No file may grow beyond this size: what a full disk looks like, without one."""

    def run() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        action()

    return finish(run)


@cache
def can_trace() -> bool:
    """Whether strace is here and may attach."""
    if shutil.which("strace") is None:
        return False
    return struck(lambda: os.mkdir("/"), "mkdir", "signal=KILL", 1) == (KILLED, True)


def struck(action: Callable[[], None], call: str, what: str, when: int) -> tuple[int, bool]:
    """(exit status, whether it got that far). what: strace's `signal=KILL` or `error=ENOSPC`, at the when-th
    system call of this name."""
    child = fork(action)
    inject = f"inject={call}:{what}:when={when}"
    command = ["strace", "-f", "-q", "-p", str(child.pid), "-e", f"trace={call}", "-e", inject]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE) as tracer:
        while tracer.poll() is None and not _traced(child.pid):
            time.sleep(0.001)
        child.go()
        _, log = tracer.communicate()
        status = child.wait()
    return status, status == KILLED or b"(INJECTED)" in log


def _traced(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status").read_text()
    return "TracerPid:\t0\n" not in status


def sweep(run: Callable[[Path], None], base: Path, call: str, what: str, step: int = 1) -> Iterator[tuple[int, Path]]:
    """(exit status, folder) with the fault at every (step-th) such call of a run, until there is none left."""
    when = 1
    while True:
        folder = base / f"{call}-{when}"
        status, reached = struck(partial(run, folder), call, what, when)
        if not reached:
            return
        yield status, folder
        when += step


# ---- damage to a ledger ----


def verdict_on(folder: Path, content: bytes, inputs: dict[str, str], truth: dict[str, bytes]) -> str:
    """What becomes of such a ledger: `refused`, `dropped` (some jobs are run again), `identical` or `wrong`."""
    path = folder / FILE
    path.write_bytes(content)
    try:
        with open_ledger(folder, inputs) as ledger:
            got = {key: ledger.get(key) for key in truth}
    except CandlingError as fault:
        return "refused" if fault.exit_code == 2 else f"exit {fault.exit_code}"
    finally:
        path.with_name(FILE + "-journal").unlink(missing_ok=True)
    if any(value is not None and value != truth[key] for key, value in got.items()):
        return "wrong"
    return "identical" if got == truth else "dropped"


def truncations(content: bytes) -> Iterator[bytes]:
    return (content[:length] for length in range(len(content)))


def flips(content: bytes, step: int = 1) -> Iterator[bytes]:
    for bit in range(0, 8 * len(content), step):
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        yield bytes(damaged)
