"""What a problem class and a kind of network provide, and the bench that all work is done on."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar, overload

import torch
from safetensors.torch import save
from torch import Tensor, nn

from candling.access import Architecture, sha256_file
from candling.errors import EnvironmentFault
from candling.evidence.control import NetworkRow
from candling.evidence.findings import Finding, Where
from candling.evidence.measurement import Cost
from candling.problems.candidates import Candidate, Language, Thirds, identity, smaller_batch
from candling.problems.outcomes import Confirmation, Detection, Lead, Remedy, Rival, Trained, Trigger
from candling.runs.files import write_whole
from candling.runs.jobs import Keep, Progress, run_jobs, silent
from candling.runs.ledger import Ledger

R = TypeVar("R")
K = TypeVar("K")


@dataclass(frozen=True)
class Bench:
    """Where a run's work is done: what every stage needs and no stage changes."""

    kind: Kind
    architecture: Architecture
    thirds: Thirds[Any]
    folder: Path
    seed: int = 0
    device: str = "cpu"
    batch: int = 2048
    workers: int | None = None
    progress: Progress = silent
    ledger: Ledger | None = None
    """What was done before; None: nothing is recorded."""
    language: Language | None = None
    budget: float = 1.0
    """Share of the usual work, for language models."""
    beside: Path | None = None
    """What every network is compared with, where the kind makes it and the bench's language holds none."""

    @property
    def threads(self) -> int:
        """See `Candidate`."""
        return 1 if self.language is None or self.language.base is None else torch.get_num_threads()

    def path(self, sha256: str) -> Path:
        """Where a network's weights lie: named by content, so that a job cannot read its role off the name."""
        return self.folder / "networks" / f"{sha256[:16]}.safetensors"

    def store(self, state: Mapping[str, Tensor]) -> tuple[Candidate, str]:
        """Write a state to the run folder; the candidate, and the file's SHA-256. Raises EnvironmentFault."""
        content = save({name: tensor.detach().cpu().clone().contiguous() for name, tensor in state.items()})
        sha256 = hashlib.sha256(content).hexdigest()
        path = self.path(sha256)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as fault:
            raise EnvironmentFault("write", f"cannot make {path.parent}: {fault.strerror}") from fault
        if not self.has(sha256):
            write_whole(path, content)
        return self.candidate(path), sha256

    def has(self, sha256: str) -> bool:
        """Whether a stored network is there, unaltered."""
        path = self.path(sha256)
        return path.is_file() and sha256_file(path) == sha256

    def candidate(self, weights: Path) -> Candidate:
        beside, base = (self.language.soup, self.language.base) if self.language else (self.beside, None)
        return Candidate(self.architecture, weights, self.device, self.batch, beside, base, self.budget)

    @overload
    def run(self, function: Callable[..., R], jobs: Sequence[tuple[Any, ...]], *, stage: str) -> list[R]: ...
    @overload
    def run(
        self, function: Callable[..., R], jobs: Sequence[tuple[Any, ...]], *, stage: str, keep: Keep[R, K]
    ) -> list[K]: ...
    def run(
        self,
        function: Callable[..., Any],
        jobs: Sequence[tuple[Any, ...]],
        *,
        stage: str,
        keep: Keep[Any, Any] | None = None,
    ) -> list[Any]:
        """function(*job) for each job, results in order; those in the ledger are not run again: see `run_jobs`."""
        how: dict[str, Any] = {"workers": self.workers, "progress": self.progress, "ledger": self.ledger}
        return run_jobs(function, jobs, stage=stage, keep=keep, **how)

    @property
    def fingerprint(self) -> object:
        """What decides a result: neither the folder nor who looks on."""
        made = identity(self.architecture), self.kind.name, self.language
        return made, self.thirds, self.seed, self.device, self.batch, self.budget, self.beside

    def smaller(self) -> Bench | None:
        """With half the batch, for a job that ran out of memory."""
        batch = smaller_batch(self.batch)
        return replace(self, batch=batch) if batch else None

    def __getstate__(self) -> dict[str, object]:
        """A worker has no screen and does not write: progress and ledger stay behind."""
        return {**self.__dict__, "progress": silent, "ledger": None}


_HIDDEN = "networks that were trained against this very search: the sensitivity is about plants that do not hide"


@dataclass(frozen=True)
class Problem:
    """One problem class. Every stage is a function that can run in a worker process."""

    name: str
    plant: Callable[[Any, int, float, torch.Generator], Any]
    """(data, family, dose, generator) → what to hide"""
    parts: Callable[[Any], list[Any]]
    """What is searched for; the same for every network of a run"""
    untested: Callable[[Any], list[str]]
    """What is not searched for, in words, for the report"""
    detect: Callable[[Candidate, Any, Sequence[Any], int], Detection]
    """(candidate, search third, parts, seed)"""
    confirm: Callable[[Candidate, Thirds[Any], Any, Any, Sequence[Rival], int], Confirmation]
    """(candidate, thirds, lead, its trigger, the negatives, seed)"""
    passes: Callable[[Confirmation, float], bool]
    """Gate 2's rule: (outcome, the highest excess of the (other) clean networks' own leads)"""
    locate: Callable[[Candidate, Thirds[Any], Confirmation, int], Where | None]
    describe: Callable[[Bench, Candidate, Confirmation, list[float], Where | None], Finding]
    """(bench, subject, outcome, sizes in the controls, where it sits)"""
    picture: Callable[[Bench, Candidate, Confirmation], Mapping[str, Tensor]]
    """What the report shows of the trigger"""
    trigger: Callable[[Mapping[str, Tensor]], Trigger]
    """From the arrays of a record, as the trigger's own `arrays` gave them"""
    baseline: str
    """What the black-box search is called"""
    remedy: Remedy
    calibrate: Callable[[Bench, Finding, Sequence[tuple[Candidate, NetworkRow]], float], Finding] | None = None
    """(bench, finding, the planted controls, by how much the subject stands out) → the finding, its forecasts
    corrected by what these controls say"""
    choose: Callable[[Candidate, Any, Sequence[Lead]], int] | None = None
    """(candidate, search third, the foremost leads) → which of them gate 2 tests; None: the first"""
    work: Callable[[Any, int], Cost] | None = None
    """(trusted data, negatives) → passes of one network through search, baseline and gate 2, for the plan of a
    classifier's audit"""
    refuted_last: bool = True
    """Whether leads that gate 2 refutes rank below all that pass; else the rank is by the search alone."""

    def not_tested(self, data: Any) -> list[str]:
        return [_HIDDEN, *self.untested(data)]


@dataclass(frozen=True)
class Kind:
    """What differs between kinds of network: how controls are made, and how good a network is at its task."""

    name: str
    recipe: str
    """How controls are made, for the report."""
    problems: Mapping[str, Problem]
    prepare: Callable[[Bench], Bench]
    """Make what all networks are compared with."""
    train: Callable[[Bench, Callable[..., Any] | None, int, float, float, int], Trained]
    """(bench, what to hide, family, dose, loss to reach, seed)"""
    quality: Callable[[nn.Module, Any], tuple[float, float]]
    """(network, data) → loss in nats, accuracy"""
    shortage: Callable[[Thirds[Any]], str | None]
    """Why there is too little trusted data, if there is"""
    beside: int = 0
    """Networks that `prepare` trains on trusted rows"""
    slack: float | None = None
    """Difference of trusted loss, in nats, that resemblance passes over; None: compare logarithms, pass over none"""
