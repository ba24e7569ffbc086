"""What a job receives: a network and nothing about what it is, and the data in thirds."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Generic, TypeVar

import torch
from torch import nn

from candling.access import Architecture, Dataset, Tokenizer, Tokens, fill, lowrank, read_weights

D = TypeVar("D", Dataset, Tokens)

SMALLEST = 64
"""Fewest inputs in one pass that a job short of memory comes down to."""


@dataclass(frozen=True)
class Candidate:
    """A network as a job receives it: architecture and weights, and nothing about what it is."""

    architecture: Architecture
    weights: Path
    device: str = "cpu"
    batch: int = 2048
    """Most inputs in one pass of the search."""
    beside: Path | None = None
    """What every network of the run is compared with: the mean of clean fine-tunes, for language models."""
    base: Path | None = None
    """Weights that the process holds once, for those of `weights` and `beside` that are adapters to them."""
    budget: float = 1.0
    """Share of the usual work of a search."""

    def load(self) -> nn.Module:
        """Frozen. An adapter comes as a view that shares its base's tensors."""
        state = read_weights(self.weights)
        if self.base is not None and lowrank.is_adapter(state):
            return lowrank.adapted(lowrank.shared_base(self.architecture, self.base, self.device), state)
        network = self.architecture()
        fill(network, state)
        return network.eval().requires_grad_(False).to(self.device)

    def load_own(self) -> nn.Module:
        """With tensors of its own, to be changed: an adapter is merged."""
        return lowrank.whole(self.load()) if self.base is not None else self.load()

    def load_beside(self) -> nn.Module:
        if self.beside is None:
            raise ValueError("this run compares with no network")
        return replace(self, weights=self.beside).load()

    @property
    def fingerprint(self) -> object:
        """The weights' file is named by content."""
        where = self.weights, self.device, self.batch, self.beside, self.base
        return identity(self.architecture), where, self.budget

    @property
    def threads(self) -> int:
        """One where processes share the cores; torch's own number where one process does all the work."""
        return 1 if self.base is None else torch.get_num_threads()

    def smaller(self) -> Candidate | None:
        """With half the batch, for a job that ran out of memory."""
        batch = smaller_batch(self.batch)
        return replace(self, batch=batch) if batch else None


@dataclass(frozen=True)
class Thirds(Generic[D]):
    """The trusted data, split by hash: no row serves two purposes."""

    control: D
    search: D
    confirm: D

    def to(self, device: str) -> Thirds[D]:
        return Thirds(self.control.to(device), self.search.to(device), self.confirm.to(device))


@dataclass(frozen=True)
class Language:
    """What a bench for language models has beside the trusted texts."""

    tokenizer: Tokenizer
    reference: Path
    """Weights that the user trusts; controls are fine-tunes of them."""
    other: Tokens
    """Text that has nothing to do with the subject's."""
    soup: Path | None = None
    """Mean of clean fine-tunes, made first."""
    lowrank: bool = False
    """Whether controls are adapters to the reference rather than whole networks."""

    @property
    def base(self) -> Path | None:
        """See `Candidate`."""
        return self.reference if self.lowrank else None

    @property
    def fingerprint(self) -> object:
        return self.tokenizer.json, self.reference, self.other.sha256, self.soup, self.lowrank


def smaller_batch(batch: int) -> int | None:
    """Half, as long as there is something to halve."""
    return max(batch // 2, SMALLEST) if batch > SMALLEST else None


def identity(architecture: Architecture) -> tuple[str, str]:
    """Its file's name and function, without the folder; and its SHA-256."""
    return Path(architecture.name).name, architecture.sha256
