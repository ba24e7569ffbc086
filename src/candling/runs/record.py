"""The run folder: everything that a report is drawn from and a claim is replayed from.

verdicts.json           what may be said, for programs; the same bytes for the same seed
networks.json           every network of the run, with what was planted in it
run.json                how it was run: inputs, settings, time; the only file with paths and times
evidence.safetensors    scores of every part of every network, the recovered trigger, examples
networks/*.safetensors  weights of the controls, and of the subject as audited, named by SHA-256
report.html
"""

from __future__ import annotations

import json
import math
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from candling.errors import EnvironmentFault, InputError
from candling.evidence.control import Networks, RunInfo
from candling.evidence.verdict import Verdicts

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
        try:
            for name, part in _FILES.items():
                text = dump(getattr(self, part))
                _replace(folder / name, partial(_write_text, text))
            arrays = {name: np.ascontiguousarray(array) for name, array in sorted(self.arrays.items())}
            _replace(folder / "evidence.safetensors", lambda path: save_file(arrays, path))
        except (OSError, SafetensorError) as fault:
            raise EnvironmentFault("write", f"cannot write {folder}: {fault}") from fault

    @staticmethod
    def read(folder: Path) -> RunRecord:
        """Raises InputError naming the file that is missing or damaged; nothing is ever filled in."""
        verdicts = _read(folder, "verdicts.json", Verdicts)
        networks = _read(folder, "networks.json", Networks)
        info = _read(folder, "run.json", RunInfo)
        path = folder / "evidence.safetensors"
        try:
            arrays = load_file(path)
        except FileNotFoundError:
            raise InputError("record", f"{path} is missing: the run did not finish") from None
        except (SafetensorError, OSError) as fault:
            raise InputError("record", f"{path} is damaged") from fault
        return RunRecord(verdicts, networks, info, arrays)


_FILES = {"verdicts.json": "verdicts", "networks.json": "networks", "run.json": "info"}


def default_folder(name: str) -> Path:
    """A fresh name under `candling-runs/`."""
    safe = "".join(c if c.isalnum() or c in "-_." else "-" for c in name)
    return Path("candling-runs") / f"{safe}-{secrets.token_hex(3)}"


def make_folder(folder: Path) -> None:
    """Make a run folder; InputError unless it is new or empty, EnvironmentFault where it cannot be made."""
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise InputError("out", f"{folder} is not an empty folder: give a new one as out")
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as fault:
        raise EnvironmentFault("write", f"cannot make {folder}: {fault.strerror}") from fault


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


def _read(folder: Path, name: str, kind: type[T]) -> T:
    path = folder / name
    try:
        return kind.model_validate_json(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        raise InputError("record", f"{path} is missing: give the folder of a finished run") from None
    except OSError as fault:
        raise InputError("record", f"{path} cannot be read: {fault.strerror}") from fault
    except ValidationError as fault:
        first = fault.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the whole file"
        raise InputError("record", f"{path} is damaged at {where}: {first['msg']}") from fault


def _write_text(text: str, path: Path) -> None:
    path.write_text(text, encoding="utf-8")


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    """Whole or not at all: written under another name, then renamed."""
    temporary = path.with_name(path.name + ".part")
    try:
        write(temporary)
        temporary.replace(path)
    except BaseException:
        if temporary.is_file():
            temporary.unlink()
        raise
