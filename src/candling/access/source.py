"""A function in a user's Python file or module: run once a process, known by the SHA-256 of its source."""

from __future__ import annotations

import hashlib
import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from candling.access.content import open_file
from candling.access.wording import bad_input, listed, shown
from candling.errors import CandlingError

_RUN: dict[tuple[str, str], ModuleType] = {}
"""Files already run in this process, by path and SHA-256."""


def source_of(spec: str, what: str, code: str) -> Source:
    """`FILE.py:FUNCTION` or `package.module:FUNCTION`; nothing is run. what: it is, in words. Raises InputError.

    The folder of the file (for a module: the working folder) comes last on the import path.
    """
    location, _, function = spec.rpartition(":")
    path = Path(location).absolute() if location.endswith(".py") else None
    dotted = all(part.isidentifier() for part in location.split("."))
    if "://" in spec or not function.isidentifier() or not (path or dotted):
        raise bad_input(
            code,
            f"{shown(spec, 60)} is no {what}; give FILE.py:FUNCTION or package.module:FUNCTION "
            "(URLs and hub ids are not supported)",
        )
    folder = str(path.parent if path else Path.cwd())
    return Source(str(path or location), function, folder, code)


@dataclass(frozen=True)
class Source:
    """A function in a Python file (absolute path) or module (dotted name)."""

    location: str
    function: str
    folder: str
    code: str
    """Of the errors that it raises."""

    def load(self) -> tuple[Callable[..., Any], str]:
        """The function and the SHA-256 of its file."""
        where = shown(self.location, 60)
        with importing_from(self.folder), blaming(self.code, f"importing {where}"):
            module, sha256 = (_from_path if self.location.endswith(".py") else _from_name)(self.location, self.code)
        function = getattr(module, self.function, None)
        if not callable(function):
            has = [name for name, value in vars(module).items() if _is_own(value, module.__name__)]
            hint = f"it has {listed(has, width=60)}" if has else "it has none"
            raise bad_input(self.code, f"{where} has no function {shown(self.function)}; {hint}")
        return function, sha256


def _is_own(value: object, module: str) -> bool:
    return callable(value) and getattr(value, "__module__", None) == module


def _from_path(location: str, code: str) -> tuple[ModuleType, str]:
    with open_file(Path(location), code) as file:
        source = file.read()
    sha256 = hashlib.sha256(source).hexdigest()
    name = f"_candling_{Path(location).stem}_{sha256[:8]}"
    if (location, sha256) not in _RUN:
        module = ModuleType(name)
        module.__file__ = location
        sys.modules[name] = module  # dataclasses look their module up while it is being run
        try:
            with torch.random.fork_rng(devices=[]):  # else a process's first build would differ from its next
                exec(compile(source, location, "exec", dont_inherit=True), module.__dict__)
        finally:
            del sys.modules[name]  # so that cloudpickle sends its classes by value to workers
        _RUN[location, sha256] = module
    return _RUN[location, sha256], sha256


def _from_name(location: str, code: str) -> tuple[ModuleType, str]:
    with torch.random.fork_rng(devices=[]):
        module = importlib.import_module(location)
    if module.__file__ is None:
        raise bad_input(code, f"{shown(location)} is a folder of modules; name one of them")
    return module, hashlib.sha256(Path(module.__file__).read_bytes()).hexdigest()


@contextmanager
def importing_from(folder: str) -> Iterator[None]:
    """`folder` last on the import path, so that it hides no installed package."""
    sys.path.append(folder)
    try:
        yield
    finally:
        del sys.path[len(sys.path) - 1 - sys.path[::-1].index(folder)]


@contextmanager
def blaming(code: str, what: str) -> Iterator[None]:
    """Turns whatever the user's code raises into an InputError that says what it was doing."""
    try:
        yield
    except CandlingError:
        raise
    except (Exception, SystemExit) as fault:
        kind = type(fault).__name__
        raise bad_input(code, f"{what} raised {kind}: {shown(fault, 80)}") from fault
