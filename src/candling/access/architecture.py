"""How to build a fresh, untrained network of the subject's kind, here or in a worker process."""

from __future__ import annotations

import copy
import hashlib
import importlib
import json
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from candling.access.content import open_file
from candling.access.wording import bad_input, listed, shown
from candling.errors import CandlingError, InputError

Build = Callable[[], nn.Module]

_RUN: dict[tuple[str, str], ModuleType] = {}
"""Files already run in this process, by path and SHA-256."""


@dataclass(frozen=True)
class Architecture:
    """Call it for a fresh network in eval mode; `torch.manual_seed` decides its weights.

    Pickles to worker processes (with cloudpickle where `build` is a local function). Calling it raises
    InputError where the build function fails or returns something that is no network with values.
    """

    name: str
    """The spec, `module in memory`, or the build function's name."""
    sha256: str
    """Of the source file (`from_spec`; files that it imports are not covered) or of the structure."""
    build: Build = field(repr=False, compare=False)

    def __call__(self) -> nn.Module:
        with _blaming(f"{shown(self.name, 60)}"):
            module = self.build()
        if not isinstance(module, nn.Module):
            kind = type(module).__name__
            raise bad_input("architecture", f"{shown(self.name, 60)} returned {kind}, not a torch.nn.Module")
        if any(is_lazy(tensor) or tensor.is_meta for tensor in [*module.parameters(), *module.buffers()]):
            raise bad_input("architecture", f"{shown(self.name, 60)} returned a network without values yet")
        return module.eval()

    @classmethod
    def from_spec(cls, spec: str) -> Architecture:
        """From `net.py:build` or `package.module:build`, a function of no arguments or a class.

        Running this Python file is the point: give only files that you trust. The file is run once a
        process, its folder (for a module: the working folder) last on the import path. Raises InputError.
        """
        location, _, function = spec.rpartition(":")
        path = Path(location).absolute() if location.endswith(".py") else None
        dotted = all(part.isidentifier() for part in location.split("."))
        if "://" in spec or not function.isidentifier() or not (path or dotted):
            raise bad_input(
                "architecture",
                f"{shown(spec, 60)} is no build function; give FILE.py:FUNCTION or package.module:FUNCTION "
                "(URLs and hub ids are not supported)",
            )
        folder = str(path.parent if path else Path.cwd())
        source = _Source(str(path or location), function, folder)
        _, sha256 = source.load()
        return cls(spec, sha256, _Pinned(source, sha256))

    @classmethod
    def from_module(cls, module: nn.Module) -> Architecture:
        """From a network in memory: a copy whose every part is reset. No weight of `module` is kept.

        Raises InputError where a part that owns parameters or buffers cannot reset them.
        """
        architecture = cls("module in memory", _sha256_structure(module), _Template(_emptied(module)))
        with torch.random.fork_rng(devices=[]):
            architecture()
        return architecture

    @classmethod
    def from_callable(cls, build: Build) -> Architecture:
        """From a function that returns a fresh network. It is called once here. Raises InputError."""
        name = shown(getattr(build, "__qualname__", type(build).__name__), 60)
        with torch.random.fork_rng(devices=[]):
            sha256 = _sha256_structure(cls(name, "", build)())
        return cls(name, sha256, build)


@dataclass(frozen=True)
class _Source:
    """A function in a Python file (absolute path) or module (dotted name)."""

    location: str
    function: str
    folder: str

    def load(self) -> tuple[Build, str]:
        """The function and the SHA-256 of its file."""
        where = shown(self.location, 60)
        with _importing_from(self.folder), _blaming(f"importing {where}"):
            module, sha256 = (_from_path if self.location.endswith(".py") else _from_name)(self.location)
        build = getattr(module, self.function, None)
        if not callable(build):
            has = [name for name, value in vars(module).items() if _is_own(value, module.__name__)]
            hint = f"it has {listed(has, width=60)}" if has else "it has none"
            raise bad_input("architecture", f"{where} has no function {shown(self.function)}; {hint}")
        return build, sha256


@dataclass(frozen=True)
class _Pinned:
    """A source that must not change: every network of a run has the same one. Plain strings when pickled."""

    source: _Source
    sha256: str

    def __call__(self) -> nn.Module:
        build, sha256 = self.source.load()
        if sha256 != self.sha256:
            raise bad_input("architecture", f"{shown(self.source.location, 60)} changed since it was loaded")
        with _importing_from(self.source.folder):
            return build()


@dataclass(frozen=True, eq=False)
class _Template:
    """A network whose every floating value is NaN, so that whatever a reset leaves out is noticed."""

    empty: nn.Module

    def __call__(self) -> nn.Module:
        module = copy.deepcopy(self.empty)
        for part in reversed(list(module.modules())):  # children first, as constructors do
            reset = _reset_of(part)
            if reset is not None:
                reset()
        for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
            if tensor.is_floating_point() and bool(tensor.isnan().any()):
                raise _cannot_reset(name)
        return module


def _emptied(module: nn.Module) -> nn.Module:
    for path, part in module.named_modules():
        own = [name for name, tensor in [*part._parameters.items(), *part._buffers.items()] if tensor is not None]
        if own and _reset_of(part) is None:
            raise _cannot_reset(f"{path}.{own[0]}" if path else own[0])
    with _blaming("copying the network"):
        empty = copy.deepcopy(module)
    for tensor in [*empty.parameters(), *empty.buffers()]:
        if tensor.is_floating_point():
            tensor.detach().fill_(torch.nan)
            tensor.requires_grad_(isinstance(tensor, nn.Parameter))
            tensor.grad = None
    return empty


def _reset_of(part: nn.Module) -> Callable[[], object] | None:
    """A part's own way to start afresh; attention and some containers spell it with an underscore."""
    names = ("reset_parameters", "_reset_parameters", "reset_running_stats")
    return next((method for name in names if callable(method := getattr(part, name, None))), None)


def _cannot_reset(name: str) -> InputError:
    return bad_input(
        "architecture",
        f"{shown(name)} has no reset_parameters; pass build=, a function that returns a fresh network",
    )


def _is_own(value: object, module: str) -> bool:
    return callable(value) and getattr(value, "__module__", None) == module


def _from_path(location: str) -> tuple[ModuleType, str]:
    with open_file(Path(location), "architecture") as file:
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


def _from_name(location: str) -> tuple[ModuleType, str]:
    with torch.random.fork_rng(devices=[]):
        module = importlib.import_module(location)
    if module.__file__ is None:
        raise bad_input("architecture", f"{shown(location)} is a folder of modules; name one of them")
    return module, hashlib.sha256(Path(module.__file__).read_bytes()).hexdigest()


@contextmanager
def _importing_from(folder: str) -> Iterator[None]:
    """`folder` last on the import path, so that it hides no installed package."""
    sys.path.append(folder)
    try:
        yield
    finally:
        del sys.path[len(sys.path) - 1 - sys.path[::-1].index(folder)]


@contextmanager
def _blaming(what: str) -> Iterator[None]:
    """Turns whatever the user's code raises into an InputError that says what it was doing."""
    try:
        yield
    except CandlingError:
        raise
    except (Exception, SystemExit) as fault:
        kind = type(fault).__name__
        raise bad_input("architecture", f"{what} raised {kind}: {shown(fault, 80)}") from fault


def _sha256_structure(module: nn.Module) -> str:
    """SHA-256 of what the network prints as and of its parameters' names and shapes."""
    shapes = sorted((name, list(value.shape)) for name, value in module.named_parameters(remove_duplicate=False))
    text = re.sub(r" at 0x[0-9a-f]+", "", repr(module))  # an address differs from process to process
    return hashlib.sha256(json.dumps([text, shapes]).encode()).hexdigest()
