"""From torch's pickles to safetensors: loaded in a child process with limits, and only as named tensors."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import zipfile
from collections import Counter
from io import BufferedReader
from pathlib import Path
from typing import NoReturn

from candling.access import unpickle
from candling.access.checkpoint import read_weights
from candling.access.content import open_file, runs_code
from candling.access.wording import bad_input, shown, unsafe_input
from candling.errors import EnvironmentFault

_MAX_MEMBERS = 200_000
_ARCHIVES = (b"PK\x03\x04", b"PK\x05\x06", b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")
_LIMITS = {-signal.SIGKILL, -getattr(signal, "SIGXCPU", signal.SIGKILL)}


def convert(source: Path, target: Path, *, seconds: int = 120, megabytes: int = 4096) -> list[str]:
    """Writes the tensors of a `.pt` file as safetensors; their names.

    The pickle is loaded by torch's restricted loader, in a child process that may use `seconds` of time and
    `megabytes` of memory; a map from names to tensors is taken, or one under `state_dict`, nothing else.
    `target` appears whole or not at all. Raises UnsafeInputError for a pickle that does more than describe
    tensors and for an archive that is not as torch writes them; InputError for anything else in it;
    EnvironmentFault where a limit is reached or the target cannot be written.
    """
    source, target = Path(source), Path(target)
    where = shown(source, 60)
    with open_file(source, "convert") as file:
        if not runs_code(file):
            raise bad_input("convert", f"{where} is neither a pickle nor a zip archive of torch's")
        _check_archive(file, where)
    if target.exists() or target.is_symlink():
        raise bad_input("convert", f"{shown(target, 60)} is there already; give a new name")
    try:
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".candling-") as folder:
            made = Path(folder) / "made.safetensors"
            _check_status(_run(source, made, seconds, megabytes, where), where, seconds, megabytes)
            names = list(read_weights(made))
            os.replace(made, target)
    except OSError as fault:
        raise EnvironmentFault("write", f"cannot write {shown(target, 60)}: {shown(fault.strerror, 60)}") from None
    return names


def _check_archive(file: BufferedReader, where: str) -> None:
    """Raises UnsafeInputError for a zip archive that torch would not have written, from its directory alone."""
    if not zipfile.is_zipfile(file):
        return
    size = os.fstat(file.fileno()).st_size
    try:
        with zipfile.ZipFile(file) as archive:
            infos = archive.infolist()
            odd = _oddity(infos, size) or next((what for info in infos if (what := _nested(archive, info))), None)
    except Exception as fault:  # zipfile raises a dozen kinds on damaged files
        raise bad_input("convert", f"{where} is a damaged zip archive ({type(fault).__name__})") from None
    if odd:
        raise unsafe_input("convert", f"{where} is no archive of torch's: {odd}")


def _oddity(infos: list[zipfile.ZipInfo], size: int) -> str | None:
    if len(infos) > _MAX_MEMBERS:
        return f"{len(infos):,} members"
    name, times = next(iter(Counter(info.filename for info in infos).most_common(1)), ("", 0))
    if times > 1:
        return f"it holds {shown(name)} {times:,} times"
    if any(info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1 for info in infos):
        return "a member is compressed or encrypted"
    total = sum(max(info.file_size, info.compress_size) for info in infos)
    if total > size:
        return f"its members claim {total:,} bytes of a file of {size:,}"
    return None


def _nested(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> str | None:
    with archive.open(info) as member:
        return f"{shown(info.filename)} is an archive" if member.read(6).startswith(_ARCHIVES) else None


def _run(source: Path, made: Path, seconds: int, megabytes: int, where: str) -> int:
    """The child's exit status. Raises EnvironmentFault where it runs out of time."""
    command = [sys.executable, "-P", unpickle.__file__, str(source.absolute()), str(made.absolute())]
    quiet = subprocess.DEVNULL
    try:
        return subprocess.run(
            [*command, str(seconds), str(megabytes)],
            stdin=quiet,
            stdout=quiet,
            stderr=quiet,
            timeout=seconds + 60,  # importing torch takes time too
            check=False,
        ).returncode
    except subprocess.TimeoutExpired:
        _over(where, seconds, megabytes)


def _check_status(status: int, where: str, seconds: int, megabytes: int) -> None:
    if status == unpickle.UNSAFE:
        raise unsafe_input("convert", f"{where} holds more than tensors: loading it whole could run code; refused")
    if status == unpickle.STRUCTURE:
        raise bad_input("convert", f"{where} is not a flat map from names to dense tensors; save a state_dict")
    if status == unpickle.WRITE:
        raise EnvironmentFault("write", f"cannot write the tensors of {where}; is the disk full?")
    if status == unpickle.MEMORY or status in _LIMITS:
        _over(where, seconds, megabytes)
    if status:
        raise bad_input("convert", f"{where} is damaged: torch cannot read it")


def _over(where: str, seconds: int, megabytes: int) -> NoReturn:
    raise EnvironmentFault("limit", f"{where} needs more than {seconds} s or {megabytes} MB; raise the limits")
