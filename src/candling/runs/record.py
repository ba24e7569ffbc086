"""The run folder: everything that a report is drawn from and a claim is replayed from.

verdicts.json           what may be said, for programs; the same bytes for the same seed
networks.json           every network of the run, with what was planted in it
run.json                how it was run: inputs, settings, time; the only file with paths and times
evidence.safetensors    scores of every part of every network, the recovered trigger, examples
networks/*.safetensors  weights of the controls, and of the subject as audited, named by SHA-256
report.html
ledger.sqlite           what every job handed back: the same command goes on from there
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from candling._version import VERSION
from candling.errors import EnvironmentFault, InputError
from candling.evidence.control import Networks, RunInfo
from candling.evidence.verdict import Verdicts
from candling.runs.codec import decode, encode
from candling.runs.files import LOCK, clean, disk_fault, locked, write_whole
from candling.runs.fingerprint import fingerprint
from candling.runs.ledger import FILE, Ledger, open_ledger

Arrays = Mapping[str, NDArray[np.float32]]
T = TypeVar("T", bound=BaseModel)


@dataclass(frozen=True)
class RunRecord:
    verdicts: Verdicts
    networks: Networks
    info: RunInfo
    arrays: Arrays

    def write(self, folder: Path) -> None:
        """Write the record, each file whole under a temporary name first. Raises EnvironmentFault."""
        for name, part in _FILES.items():
            write_whole(folder / name, dump(getattr(self, part)).encode())
        write_arrays(folder, self.arrays)

    @staticmethod
    def read(folder: Path) -> RunRecord:
        """Raises InputError naming the file that is missing or damaged; nothing is ever filled in."""
        verdicts = read_part(folder, "verdicts.json", Verdicts)
        networks = read_part(folder, "networks.json", Networks)
        info = read_part(folder, "run.json", RunInfo)
        return RunRecord(verdicts, networks, info, read_arrays(folder))


_FILES = {"verdicts.json": "verdicts", "networks.json": "networks", "run.json": "info"}


ARRAYS = "evidence.safetensors"
SCHEMA = 1
"""Of `verdicts.json` and `explanation.json`."""
_RECORD = ("record", "record", 0)  # key, stage and number in the ledger, among the jobs

_log = logging.getLogger(__name__)


def default_folder(name: str, inputs: Mapping[str, str]) -> Path:
    """A name under `candling-runs/`, the same for the same inputs: the same command goes on where it stopped."""
    safe = "".join(c if c.isalnum() or c in "-_." else "-" for c in name)
    return Path("candling-runs") / f"{safe}-{fingerprint(dict(inputs))[:8]}"


@contextmanager
def open_run(out: Path | None, inputs: Mapping[str, str]) -> Iterator[tuple[Path, Ledger | None]]:
    """A folder for a run, for this process alone, and its ledger: new, or begun with the same inputs.

    None is a temporary folder, without a ledger. Raises InputError on a folder that holds anything else, or
    is damaged; Busy; EnvironmentFault where it cannot be made.
    """
    if out is None:
        with tempfile.TemporaryDirectory() as scratch:
            yield Path(scratch), None
        return
    try:
        if out.exists() and not out.is_dir():
            raise InputError("out", f"{out} is not an empty folder: give a new one as out")
        out.mkdir(parents=True, exist_ok=True)
        _check_ours(out)
    except OSError as fault:
        raise EnvironmentFault("write", f"cannot make {out}: {fault.strerror}") from fault
    with locked(out):
        _check_ours(out)
        with open_ledger(out, inputs) as ledger:
            clean(out)
            yield out, ledger


def _check_ours(folder: Path) -> None:
    names = {path.name for path in folder.iterdir()}
    if names and not names & {LOCK, FILE}:
        raise InputError("out", f"{folder} is not an empty folder: give a new one as out")
    ledger = folder / FILE
    if names - {LOCK, FILE, f"{FILE}-journal"} and not (ledger.exists() and ledger.stat().st_size):
        raise InputError("record", f"{FILE} is missing or empty, in a folder with results: give a new --out")


def seal(folder: Path, ledger: Ledger, names: Iterable[str] = (*_FILES, ARRAYS, "report.html")) -> None:
    """Note in the ledger that the run is finished, with the files that it wrote. Raises EnvironmentFault."""
    ledger.done(*_RECORD, encode({name: _sha256(folder / name) for name in names}, {}))


def sealed(folder: Path, ledger: Ledger) -> RunRecord | None:
    """The record of a finished run; None where it is not finished, or a file is not as it was written."""
    return RunRecord.read(folder) if intact(folder, ledger) else None


def intact(folder: Path, ledger: Ledger) -> bool:
    """Is the run finished, and every file that was sealed as it was written?"""
    payload = ledger.get(_RECORD[0])
    if payload is None:
        return False
    for name, sha256 in decode(payload, {}).items():
        if _sha256(folder / name) != sha256:
            _log.warning("%s is missing or altered: the record is written again from the ledger", name)
            return False
    return True


def _sha256(path: Path) -> str | None:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except FileNotFoundError:
        return None
    except OSError as fault:
        raise disk_fault(path, fault) from fault


def dump(record: BaseModel) -> str:
    """JSON with floats to six significant digits, so that a record is read as easily as it is compared."""
    return json.dumps(_rounded(record.model_dump(by_alias=True)), indent=2, ensure_ascii=False) + "\n"


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else str(value)
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    return value


def write_arrays(folder: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """The same arrays give the same bytes. Raises EnvironmentFault."""
    plain = {name: np.ascontiguousarray(array) for name, array in sorted(arrays.items())}
    write_whole(folder / ARRAYS, save(plain))


def read_arrays(folder: Path) -> dict[str, NDArray[Any]]:
    """Raises InputError naming the file where it is missing or damaged."""
    path = folder / ARRAYS
    try:
        return load_file(path)
    except FileNotFoundError:
        raise InputError("record", f"{path} is missing: the run did not finish") from None
    except (SafetensorError, OSError) as fault:
        raise InputError("record", f"{path} is damaged") from fault


def read_part(folder: Path, name: str, kind: type[T]) -> T:
    """One JSON file of the record. Raises InputError naming the file, and the field where it is damaged.

    Records of older versions are read: what they lack has a value that says so. A newer one is refused as such.
    """
    path = folder / name
    try:
        content = path.read_bytes()
        return kind.model_validate_json(content)
    except (FileNotFoundError, NotADirectoryError):
        raise InputError("record", f"{path} is missing: give the folder of a finished run") from None
    except OSError as fault:
        raise InputError("record", f"{path} cannot be read: {fault.strerror}") from fault
    except ValidationError as fault:
        newer = _newer(content)
        if newer is not None:
            raise InputError("record", f"{path} is of a newer candling ({newer}): read it with that") from fault
        first = fault.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the whole file"
        raise InputError("record", f"{path} is damaged at {where}: {first['msg']}") from fault


def _newer(content: bytes) -> str | None:
    """The version or schema that a record names, where it is beyond this program's."""
    try:
        fields = json.loads(content)
    except (ValueError, RecursionError):
        return None
    if not isinstance(fields, dict):
        return None
    version, schema = str(fields.get("candling")), fields.get("schema")
    if _release(version) > _release(VERSION):
        return version[:20]
    return f"schema {schema}"[:20] if type(schema) is int and schema > SCHEMA else None


def _release(version: str) -> tuple[int, ...]:
    """The numbers that a version begins with; none of a text that is no version."""
    found = re.match(r"\d{1,6}(\.\d{1,6})*", version)
    return tuple(map(int, found[0].split("."))) if found else ()
