"""What a problem class provides, and what passes between its stages."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from candling.access import Architecture, Dataset, fill, read_weights, sha256_file, write_weights
from candling.evidence.measurement import Cost
from candling.evidence.verdict import Located
from candling.organisms.plants import Backdoor
from candling.runs.jobs import Progress, run_jobs, silent
from candling.techniques.search import Found, FoundTrigger, Part

R = TypeVar("R")


@dataclass(frozen=True)
class Candidate:
    """A network as a job receives it: architecture and weights, and nothing about what it is."""

    architecture: Architecture
    weights: Path
    device: str = "cpu"
    batch: int = 2048
    """Most inputs in one pass of the search."""

    def load(self) -> nn.Module:
        network = self.architecture()
        fill(network, read_weights(self.weights))
        return network.eval().requires_grad_(False).to(self.device)


@dataclass(frozen=True)
class Thirds:
    """The trusted data, split by hash: no row serves two purposes."""

    control: Dataset
    search: Dataset
    confirm: Dataset

    def to(self, device: str) -> Thirds:
        return Thirds(self.control.to(device), self.search.to(device), self.confirm.to(device))


@dataclass(frozen=True)
class Bench:
    """Where a run's work is done: what every stage needs and no stage changes."""

    architecture: Architecture
    thirds: Thirds
    folder: Path
    seed: int = 0
    device: str = "cpu"
    batch: int = 2048
    workers: int | None = None
    progress: Progress = silent

    def path(self, sha256: str) -> Path:
        """Where a network's weights lie: named by content, so that a job cannot read its role off the name."""
        return self.folder / "networks" / f"{sha256[:16]}.safetensors"

    def store(self, state: Mapping[str, Tensor]) -> tuple[Candidate, str]:
        """Write a state to the run folder; the candidate, and the file's SHA-256."""
        unnamed = self.folder / "networks" / "unnamed"
        unnamed.parent.mkdir(parents=True, exist_ok=True)
        write_weights(unnamed, state)
        sha256 = sha256_file(unnamed)
        return self.candidate(unnamed.replace(self.path(sha256))), sha256

    def candidate(self, weights: Path) -> Candidate:
        return Candidate(self.architecture, weights, self.device, self.batch)

    def run(self, function: Callable[..., R], jobs: Sequence[tuple[Any, ...]], *, stage: str) -> list[R]:
        """function(*job) for each job, results in order."""
        return run_jobs(function, jobs, stage=stage, workers=self.workers, progress=self.progress)

    def __getstate__(self) -> dict[str, object]:
        """A worker has no screen: progress stays behind."""
        return {**self.__dict__, "progress": silent}


@dataclass(frozen=True)
class Detection:
    """What the blind search, and the black-box baseline at equal compute, found in one network."""

    found: Found
    baseline: Found


@dataclass(frozen=True)
class Rival:
    """A negative control, with what the same search found in it for the lead's part."""

    candidate: Candidate
    trigger: FoundTrigger
    size: float


@dataclass(frozen=True)
class Confirmation:
    """Gate 2 for one network's lead, on the confirm third."""

    part: Part
    trigger: FoundTrigger
    """Refined on the search third."""
    size: float
    hits: int
    n: int
    random: float
    """Highest success of random triggers of the same size."""
    random_triggers: int
    transfer: float
    """Highest success of this trigger on the (other) negative controls."""
    best_in_controls: float
    """Highest success of the controls' own triggers for the same part, brought down to this size."""
    cost: Cost

    @property
    def success(self) -> float:
        return self.hits / self.n


@dataclass(frozen=True)
class Problem:
    """One problem class. Every stage is a function that can run in a worker process."""

    name: str
    plant: Callable[[Dataset, int, float, torch.Generator], Backdoor]
    """(data, family, dose, generator) → what to hide"""
    parts: Callable[[Dataset], list[Part]]
    """What is searched for; the same for every network of a run"""
    untested: Callable[[Dataset], list[str]]
    """What is not searched for, in words, for the report"""
    detect: Callable[[Candidate, Dataset, Sequence[Part], int], Detection]
    """(candidate, search third, parts, seed)"""
    confirm: Callable[[Candidate, Thirds, Part, FoundTrigger, Sequence[Rival], int], Confirmation]
    """(candidate, thirds, lead, its trigger, the negatives, seed)"""
    passes: Callable[[Confirmation], bool]
    """Gate 2's rule"""
    locate: Callable[[Candidate, Thirds, Confirmation, int], Located | None]
