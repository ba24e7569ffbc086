"""The ledger of a run folder: what every finished job handed back, so that the same command goes on from there.

An SQLite file with a rollback journal; one transaction for each result, on the disk before the next is taken.
Every row carries a SHA-256 over all of it and the run's random id. What is damaged is refused by name; a
transaction that was cut short is rolled back by SQLite when the file is opened again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import secrets
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from candling._version import VERSION
from candling.errors import CandlingError, InputError
from candling.runs.files import disk_fault

SCHEMA = 1
"""Of the tables below; raise it when they change."""

FILE = "ledger.sqlite"

Status = Literal["done", "failed"]

_TABLES = {
    "run": "CREATE TABLE run (schema INTEGER, id TEXT, candling TEXT, inputs TEXT, sum TEXT)",
    "jobs": "CREATE TABLE jobs "
    "(key TEXT, stage TEXT, ordinal INTEGER, status TEXT, note TEXT, payload BLOB, sum TEXT)",
}
_KINDS = {"run": (int, str, str, str, str), "jobs": (str, str, int, str, str, bytes, str)}

_FIXED = {
    0: b"SQLite format 3\0",
    16: b"\x10\x00\x01\x01\x00\x40\x20\x20",  # page of 4096 bytes, rollback journal, nothing reserved
    44: b"\0\0\0\4" + b"\0" * 8 + b"\0\0\0\1" + b"\0" * 32,  # schema format 4, no vacuum, UTF-8, and unused bytes
}
"""Bytes of the file's header that never change. SQLite does not look at all of them."""

_DISK = {
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_AUTH,
    sqlite3.SQLITE_BUSY,
}
"""Faults of the machine; every other is damage."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Row:
    number: int
    stage: str
    ordinal: int
    status: Status
    note: str


class Ledger:
    """Results by the key of their job. Made by `open_ledger`; only the process that holds the lock has one."""

    def __init__(self, path: Path, connection: sqlite3.Connection, run: str, rows: dict[str, _Row]) -> None:
        self._path, self._db, self._run, self._rows = path, connection, run, rows

    def get(self, key: str) -> bytes | None:
        """What a job handed back; None if it is not done. Raises InputError if it was damaged meanwhile."""
        row = self._rows.get(key)
        if row is None or row.status != "done":
            return None
        with _faults(self._path):
            found = self._db.execute("SELECT * FROM jobs WHERE rowid = ?", (row.number,)).fetchall()
        if len(found) != 1:
            raise _damage(self._path, _place(row.stage, row.ordinal))
        return bytes(_checked(self._path, self._run, found[0])[5])

    def status(self, key: str) -> tuple[Status, str] | None:
        """(status, note) of a job that has been run."""
        row = self._rows.get(key)
        return None if row is None else (row.status, row.note)

    def done(self, key: str, stage: str, ordinal: int, payload: bytes, note: str = "") -> None:
        """Record a result, in place of whatever the job had. Raises EnvironmentFault; nothing has changed then."""
        self._put(key, _Row(0, stage, ordinal, "done", note), payload)

    def failed(self, key: str, stage: str, ordinal: int, note: str) -> None:
        """Record that a job failed: the next run tries it again. Raises EnvironmentFault."""
        self._put(key, _Row(0, stage, ordinal, "failed", note), b"")

    def _put(self, key: str, row: _Row, payload: bytes) -> None:
        old = self._rows.get(key)
        values = (key, row.stage, row.ordinal, row.status, row.note, payload)
        with _faults(self._path), _transaction(self._db):
            if old is not None:
                self._db.execute("DELETE FROM jobs WHERE rowid = ?", (old.number,))
            summed = (*values, _sum(self._run, *values))
            number = self._db.execute("INSERT INTO jobs VALUES (?, ?, ?, ?, ?, ?, ?)", summed).lastrowid
        assert number is not None
        self._rows[key] = _Row(number, row.stage, row.ordinal, row.status, row.note)


@contextmanager
def open_ledger(folder: Path, inputs: Mapping[str, str]) -> Iterator[Ledger]:
    """The ledger of a folder: a new one, or the one that is there if it belongs to the same inputs.

    inputs: everything that decides the results: SHA-256 of files, and settings. What counts is the first word
    of a name; the rest (a file's name) is for the error. Raises InputError on another run's, a damaged or a
    newer ledger; EnvironmentFault.
    """
    path = folder / FILE
    with _faults(path):
        journal = path.with_name(FILE + "-journal")
        if journal.exists() and journal.stat().st_size:
            _log.warning("%s: the last record was cut short; it is dropped, and its job is run again", FILE)
        else:
            _check_header(path)
        connection = sqlite3.connect(path, isolation_level=None, timeout=0)
    with closing(connection):
        with _faults(path):
            ledger = _read(path, connection, inputs)
        yield ledger


def _create(connection: sqlite3.Connection, inputs: Mapping[str, str]) -> None:
    connection.execute("PRAGMA page_size = 4096")
    connection.execute("PRAGMA journal_mode = DELETE")
    values = (SCHEMA, secrets.token_hex(16), VERSION, json.dumps(dict(inputs)))
    with _transaction(connection):
        for table in _TABLES.values():
            connection.execute(table)
        connection.execute("INSERT INTO run VALUES (?, ?, ?, ?, ?)", (*values, _sum(*values)))


def _read(path: Path, connection: sqlite3.Connection, inputs: Mapping[str, str]) -> Ledger:
    """Everything in the file, checked; an empty one is filled in."""
    connection.text_factory = lambda raw: raw.decode("utf-8", "surrogateescape")  # its sum will not fit
    for setting in ("trusted_schema = OFF", "cell_size_check = ON", "synchronous = FULL"):
        connection.execute(f"PRAGMA {setting}")
    tables = dict(connection.execute("SELECT name, sql FROM sqlite_master"))
    _check_header(path)  # again: a rollback may have put other bytes there
    if not tables and path.stat().st_size == 0:
        _create(connection, inputs)
        tables = _TABLES
    if connection.execute("PRAGMA integrity_check").fetchall() != [("ok",)]:
        raise _damage(path, "its pages")
    if "run" not in tables:
        raise _damage(path, "its tables")
    versions = connection.execute("SELECT schema FROM run").fetchall()
    if len(versions) == 1 and isinstance(versions[0][0], int) and versions[0][0] > SCHEMA:
        raise InputError("record", f"{path.name} is of a newer candling: go on with that, or give a new --out")
    if tables != _TABLES:
        raise _damage(path, "its tables")
    heads = connection.execute("SELECT * FROM run").fetchall()
    if len(heads) != 1 or not _is_sound(heads[0], _KINDS["run"], _sum(*heads[0][:-1])):
        raise _damage(path, "what it says of the run")
    _, run, _, begun_with, _ = heads[0]
    _check_inputs(path, json.loads(begun_with), inputs)
    rows: dict[str, _Row] = {}
    for number, *values in connection.execute("SELECT rowid, * FROM jobs"):
        key, stage, ordinal, status, note, _, _ = _checked(path, run, tuple(values))
        if key in rows:
            raise _damage(path, f"{_place(stage, ordinal)}, which is there twice")
        rows[key] = _Row(number, stage, ordinal, status, note)
    return Ledger(path, connection, run, rows)


def _check_header(path: Path) -> None:
    if not path.exists() or path.stat().st_size == 0:
        return
    with path.open("rb") as file:
        head = file.read(100)
    if any(head[at : at + len(part)] != part for at, part in _FIXED.items()):
        raise _damage(path, "its first bytes")


def _check_inputs(path: Path, begun_with: dict[str, str], inputs: Mapping[str, str]) -> None:
    before = {name.split()[0]: value for name, value in begun_with.items()}
    now = {name.split()[0]: value for name, value in inputs.items()}
    other = [name.strip() for name in inputs if before.get(name.split()[0]) != now[name.split()[0]]]
    other += [name for name in before if name not in now]
    if other:
        first = ", ".join(other[:4]) + (" …" if other[4:] else "")
        raise InputError("out", f"{path.parent} holds another run: {first} differ; give a new --out")


def _checked(path: Path, run: str, values: tuple[Any, ...]) -> tuple[Any, ...]:
    """A row of `jobs` that is as it was written."""
    if not _is_sound(values, _KINDS["jobs"], _sum(run, *values[:-1])):
        raise _damage(path, _place(values[1], values[2]))
    return values


def _is_sound(values: tuple[Any, ...], kinds: tuple[type, ...], expected: str) -> bool:
    return tuple(map(type, values)) == kinds and bool(values[-1] == expected)


def _sum(*values: object) -> str:
    """SHA-256 of values, each with its type; bytes by their own SHA-256."""
    parts = [[type(v).__name__, hashlib.sha256(v).hexdigest() if isinstance(v, bytes) else v] for v in values]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _place(stage: object, ordinal: object) -> str:
    return f"the record of {str(stage)[:40]}, job {ordinal + 1 if isinstance(ordinal, int) else '?'}"


def _damage(path: Path, what: str) -> InputError:
    return InputError("record", f"{path.name} is damaged in {what}: put a sound copy back, or give a new --out")


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """All or nothing, whatever interrupts it."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # SQLite may have rolled back itself
            with suppress(sqlite3.Error):  # the journal stays, and whoever opens the file next rolls back
                connection.execute("ROLLBACK")
        raise


@contextmanager
def _faults(path: Path) -> Iterator[None]:
    """Turns SQLite's errors into ours: a full disk is the machine's, anything else is damage."""
    try:
        yield
    except CandlingError:
        raise
    except sqlite3.Error as fault:
        code = getattr(fault, "sqlite_errorcode", None)
        if code is not None and code & 0xFF in _DISK:
            raise disk_fault(path, fault) from fault
        raise _damage(path, f"a place where SQLite says: {str(fault)[:60]}") from fault
    except UnicodeError as fault:  # SQLite's own message about a damaged text
        raise _damage(path, "its texts") from fault
    except OSError as fault:
        raise disk_fault(path, fault) from fault
