"""Arrays from `.npz` files, judged by the zip's directory and the arrays' headers before they are read."""

from __future__ import annotations

import math
import zipfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy

from candling.access.content import looks_pickled, open_file
from candling.access.wording import bad_input, listed, shown, unsafe_input
from candling.errors import CandlingError

MAX_BYTES = 8 << 30
"""Most that all members together may hold, uncompressed."""

Array = np.ndarray[Any, np.dtype[Any]]


def read_arrays(path: Path, wanted: Iterable[str]) -> dict[str, Array]:
    """The wanted arrays of an `.npz` file; nothing is ever unpickled.

    Raises UnsafeInputError for a pickle (also inside: object arrays), a member given twice, or more than
    8 GiB declared; InputError for no such file, no npz, a damaged one, or a missing array (naming the
    arrays that are there).
    """
    where = shown(path, 60)
    with open_file(path, "data") as file:
        if not zipfile.is_zipfile(file):
            file.seek(0)
            if looks_pickled(file.read(1 << 20)):
                raise unsafe_input("data", f"{where} is a pickle, which could run code; give an .npz of arrays")
            raise bad_input("data", f"{where} is not an .npz file; write it with numpy.savez")
        try:
            with zipfile.ZipFile(file) as archive:
                members = _members(archive, where)
                missing = [name for name in wanted if name not in members]
                if missing:
                    has = listed([shown(name) for name in members], width=80) or "none"
                    raise bad_input("data", f"{where} has no array {missing[0]}; arrays there: {has}")
                return {name: _array(archive, members[name]) for name in wanted}
        except CandlingError:
            raise
        except Exception as fault:  # zipfile and numpy raise a dozen kinds on damaged files
            raise bad_input("data", f"{where} is damaged ({type(fault).__name__})") from None


def _members(archive: zipfile.ZipFile, where: str) -> dict[str, zipfile.ZipInfo]:
    """Every member by array name, after all of them were found harmless."""
    infos = archive.infolist()
    size = sum(info.file_size for info in infos)
    if size > MAX_BYTES:
        raise unsafe_input("data", f"{where} would inflate to {size:,} bytes, more than {MAX_BYTES:,}")
    times = Counter(info.filename.removesuffix(".npy") for info in infos)
    twice = [name for name, count in times.items() if count > 1]
    if twice:
        raise unsafe_input("data", f"{where} holds {shown(twice[0])} twice")
    for info in infos:
        with archive.open(info) as member:
            if _holds_pickle(member):
                what = f"{where}: {shown(info.filename)} holds pickled objects, which could run code"
                raise unsafe_input("data", what)
    return {info.filename.removesuffix(".npy"): info for info in infos}


def _holds_pickle(member: IO[bytes]) -> bool:
    head = member.read(1 << 16)
    if not head.startswith(npy.MAGIC_PREFIX):
        return looks_pickled(head)
    member.seek(0)
    return _header(member)[1].hasobject


def _header(member: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and dtype that an array's header declares."""
    major, _ = npy.read_magic(member)
    read = npy.read_array_header_1_0 if major == 1 else npy.read_array_header_2_0
    shape, _, dtype = read(member)
    return shape, dtype


def _array(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Array:
    with archive.open(info) as member:
        shape, dtype = _header(member)
        if member.tell() + math.prod(shape) * dtype.itemsize != info.file_size:
            raise ValueError("size")  # before numpy allocates what the header claims
        member.seek(0)
        array: Array = npy.read_array(member, allow_pickle=False)
        member.read(1)  # reaching the end is what checks the CRC
    return array
