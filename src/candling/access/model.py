"""A loaded network: a private copy in eval mode, how to build a fresh one, and the hash of its weights."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from candling.access.architecture import Architecture
from candling.access.checkpoint import check_finite, fill, read_weights, sha256_state
from candling.access.modes import undisturbed
from candling.access.wording import bad_input, listed


@dataclass(frozen=True, eq=False)
class Model:
    """A network to look at. Nothing in this library changes its module."""

    module: nn.Module
    """In eval mode; no parameter takes a gradient."""
    architecture: Architecture
    sha256: str
    """Of the state: names, dtypes, shapes and values."""


def load(
    source: str | nn.Module,
    *,
    weights: str | Path | None = None,
    build: Callable[[], nn.Module] | None = None,
) -> Model:
    """A network from `FILE.py:FUNCTION` or `package.module:FUNCTION` with `weights`, or from memory.

    `weights` is a safetensors file. A module in memory is copied, never touched; `build` returns a fresh
    network like it, needed where its parts cannot reset themselves. Raises InputError and
    UnsafeInputError: see `architecture` and `checkpoint`.
    """
    with torch.random.fork_rng(devices=[]):  # loading leaves the caller's random numbers alone
        if isinstance(source, nn.Module):
            architecture = Architecture.from_callable(build) if build else Architecture.from_module(source)
            module = copy.deepcopy(source)
            if build:
                _check_same(module, architecture())
        else:
            if weights is None:
                raise bad_input("weights", "a network from a build function needs weights, a safetensors file")
            if build:
                raise bad_input("architecture", "build= goes with a module in memory, not with a spec")
            architecture = Architecture.from_spec(source)
            module = architecture()
    if weights is not None:
        fill(module, read_weights(weights))
    state = module.state_dict()
    check_finite(state.items(), "the network")
    return Model(module.eval().requires_grad_(False), architecture, sha256_state(module))


def forward(model: Model | nn.Module, x: Tensor, batch: int = 512) -> Tensor:
    """Logits [n, classes] for `x` [n, ...], without gradients, in eval mode, `batch` examples at a time.

    Costs n forward passes. The batch plan decides the last bits of float32 results.
    """
    module = model.module if isinstance(model, Model) else model
    with undisturbed(module):
        return torch.cat([module(part) for part in torch.split(x, batch)])


def _check_same(module: nn.Module, fresh: nn.Module) -> None:
    """Raises InputError where a fresh network's state has other names or shapes."""
    own, other = ({n: getattr(t, "shape", None) for n, t in m.state_dict().items()} for m in (module, fresh))
    wrong = [name for name in own.keys() | other.keys() if own.get(name) != other.get(name)]
    if wrong:
        raise bad_input("architecture", f"build= returns another network: it differs at {listed(sorted(wrong))}")
