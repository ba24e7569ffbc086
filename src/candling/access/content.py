"""What a file is, judged by its bytes and never by its name. Nothing is ever unpickled or inflated here."""

from __future__ import annotations

import pickletools
import stat
import warnings
import zipfile
from io import BufferedReader
from itertools import islice
from pathlib import Path

from candling.access.wording import bad_input, shown

_HEAD = 1 << 20
_OPCODES = 100_000

_CALLS = {
    *("STACK_GLOBAL", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "REDUCE", "BUILD"),
    *("EXT1", "EXT2", "EXT4", "PERSID", "BINPERSID"),
}
"""Opcodes that import or call something. GLOBAL is judged by its argument."""


def open_file(path: Path, code: str) -> BufferedReader:
    """`path` opened for reading. Raises InputError: missing, a folder, not a regular file, unreadable."""
    where = shown(path, 60)
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise bad_input(code, f"{where} is a folder; give a file")
        if not stat.S_ISREG(mode):  # opening a pipe would wait for ever
            raise bad_input(code, f"{where} is not a regular file")
        return path.open("rb")
    except FileNotFoundError:
        raise bad_input(code, f"no such file: {where}") from None
    except (OSError, ValueError) as fault:
        raise bad_input(code, f"cannot open {where}: {type(fault).__name__}") from None


def runs_code(file: BufferedReader) -> bool:
    """Whether the file reads as a zip archive or as a pickle, whole or with a broken tail."""
    file.seek(0)
    head = file.read(_HEAD)
    return head.startswith((b"PK\x03\x04", b"PK\x05\x06")) or zipfile.is_zipfile(file) or looks_pickled(head)


def looks_pickled(head: bytes) -> bool:
    """Whether `head` starts a pickle: opcodes that keep a sound stack and reach a call or a stop.

    A few opcodes can occur by chance in other files, so short runs count only when they fill the file,
    name an importable object, or follow a protocol mark.
    """
    stack: list[object] = []
    marked = False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd escapes in string opcodes
            for count, (opcode, arg, position) in enumerate(islice(pickletools.genops(head), _OPCODES), 1):
                if marked:
                    return True
                if not _step(stack, opcode):
                    return False
                if opcode.name == "STOP":
                    return count > 2 or position == len(head) - 1
                if (opcode.name in _CALLS and count > 2) or (opcode.name == "GLOBAL" and _importable(arg)):
                    return True
                marked = count == 1 and opcode.name == "PROTO" and arg in range(6)
    except Exception:  # whatever pickletools makes of arbitrary bytes, they are no pickle
        return False
    return True


def _importable(arg: object) -> bool:
    module, _, name = str(arg).partition(" ")
    return all(part.isidentifier() for part in [*module.split("."), *name.split(".")])


def _step(stack: list[object], opcode: pickletools.OpcodeInfo) -> bool:
    """Applies the opcode to a stack of kinds; False where a real unpickler would underflow."""
    before = opcode.stack_before
    needed = len(before)
    if pickletools.markobject in before:
        needed = before.index(pickletools.markobject)
        if pickletools.markobject not in stack:
            return False
        while stack.pop() is not pickletools.markobject:
            pass
    if len(stack) < needed:
        return False
    del stack[len(stack) - needed :]
    stack.extend(opcode.stack_after)
    return True
