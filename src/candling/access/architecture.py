"""How to build a fresh, untrained network of the subject's kind, here or in a worker process."""

from __future__ import annotations

import copy
import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from candling.access.source import Source, blaming, importing_from, source_of
from candling.access.wording import bad_input, shown
from candling.errors import InputError

Build = Callable[[], nn.Module]


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
        with blaming("architecture", f"{shown(self.name, 60)}"):
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
        source = source_of(spec, "build function", "architecture")
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
class _Pinned:
    """A source that must not change: every network of a run has the same one. Plain strings when pickled."""

    source: Source
    sha256: str

    def __call__(self) -> nn.Module:
        build, sha256 = self.source.load()
        if sha256 != self.sha256:
            raise bad_input("architecture", f"{shown(self.source.location, 60)} changed since it was loaded")
        with importing_from(self.source.folder):
            network: nn.Module = build()
            return network


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
    with blaming("architecture", "copying the network"):
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


def _sha256_structure(module: nn.Module) -> str:
    """SHA-256 of what the network prints as and of its parameters' names and shapes."""
    shapes = sorted((name, list(value.shape)) for name, value in module.named_parameters(remove_duplicate=False))
    text = re.sub(r" at 0x[0-9a-f]+", "", repr(module))  # an address differs from process to process
    return hashlib.sha256(json.dumps([text, shapes]).encode()).hexdigest()
