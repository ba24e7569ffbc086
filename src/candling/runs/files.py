"""Files of a run folder: written whole or not at all, and only by one process."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from candling.errors import Busy, EnvironmentFault

PART = ".part"
"""Ending of a file that is being written. One that is found was left behind by a process that was killed."""

LOCK = ".lock"


def write_whole(path: Path, content: bytes) -> None:
    """Under another name, to the disk, then renamed. Raises EnvironmentFault, and then nothing has changed."""
    temporary = path.with_name(path.name + PART)
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    except BaseException as fault:
        remove(temporary)
        if isinstance(fault, OSError):
            raise disk_fault(path, fault) from fault
        raise


def disk_fault(path: Path, fault: Exception) -> EnvironmentFault:
    why = (fault.strerror if isinstance(fault, OSError) else None) or str(fault)
    return EnvironmentFault("write", f"cannot write {path.name}: {why}; free space and run the same command again")


def remove(path: Path) -> None:
    """Remove a file if that can be done: nothing depends on it."""
    with suppress(OSError):
        path.unlink()


def clean(folder: Path) -> None:
    """Remove what a killed process was writing."""
    for path in (*folder.glob(f"*{PART}"), *folder.glob(f"networks/*{PART}")):
        remove(path)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Nobody else may work in the folder meanwhile; the lock goes with the process. Raises Busy, EnvironmentFault.

    The file stays: removing it would let two processes hold locks on two files of one name.
    """
    try:
        handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as fault:
        raise disk_fault(folder / LOCK, fault) from fault
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Busy("busy", f"another process works in {folder}: wait for it, or give another --out") from None
        except OSError as fault:
            raise disk_fault(folder / LOCK, fault) from fault
        yield
    finally:
        os.close(handle)


def _sync_folder(folder: Path) -> None:
    """A rename is on the disk when its folder is."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
