"""What a problem class provides, and what passes between its stages."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar, overload

import torch
from safetensors.torch import save
from torch import Tensor, nn

from candling.access import Architecture, Dataset, Tokenizer, Tokens, fill, lowrank, read_weights, sha256_file
from candling.errors import EnvironmentFault
from candling.evidence.control import Plant
from candling.evidence.measurement import Cost
from candling.evidence.verdict import Finding, Located
from candling.runs.files import write_whole
from candling.runs.jobs import Keep, Progress, run_jobs, silent
from candling.runs.ledger import Ledger
from candling.techniques.search import Found, FoundSequence, FoundSequences, FoundTrigger, Part, SequencePart

R = TypeVar("R")
K = TypeVar("K")
D = TypeVar("D", Dataset, Tokens)

Trigger = FoundTrigger | FoundSequence
Sought = Part | SequencePart

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
        return _identity(self.architecture), where, self.budget

    @property
    def threads(self) -> int:
        """One where processes share the cores; torch's own number where one process does all the work."""
        return 1 if self.base is None else torch.get_num_threads()

    def smaller(self) -> Candidate | None:
        """With half the batch, for a job that ran out of memory."""
        return _smaller(self)


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
        beside, base = (self.language.soup, self.language.base) if self.language else (None, None)
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
        made = _identity(self.architecture), self.kind.name, self.language
        return made, self.thirds, self.seed, self.device, self.batch, self.budget

    def smaller(self) -> Bench | None:
        """With half the batch, for a job that ran out of memory."""
        return _smaller(self)

    def __getstate__(self) -> dict[str, object]:
        """A worker has no screen and does not write: progress and ledger stay behind."""
        return {**self.__dict__, "progress": silent, "ledger": None}


B = TypeVar("B", Candidate, Bench)


def _smaller(what: B) -> B | None:
    return replace(what, batch=max(what.batch // 2, SMALLEST)) if what.batch > SMALLEST else None


def _identity(architecture: Architecture) -> tuple[str, str]:
    """Its file's name and function, without the folder; and its SHA-256."""
    return Path(architecture.name).name, architecture.sha256


@dataclass(frozen=True)
class Detection:
    """What the blind search, and the black-box baseline at equal compute, found in one network."""

    found: Found | FoundSequences
    baseline: Found | FoundSequences


@dataclass(frozen=True)
class Rival:
    """A negative control, with what the same search found in it for the lead's part."""

    candidate: Candidate
    trigger: Trigger
    size: float


@dataclass(frozen=True)
class Confirmation:
    """Gate 2 for one network's lead, on the confirm third."""

    part: Sought
    trigger: Trigger
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

    @property
    def excess(self) -> float:
        """Success beyond what the same trigger does in clean networks."""
        return self.success - self.transfer


@dataclass(frozen=True)
class Made:
    """A control without its weights."""

    recipe: str
    loss: float
    accuracy: float
    plant: Plant | None
    cost: Cost


@dataclass(frozen=True)
class Trained:
    """What a training job hands back."""

    state: dict[str, Tensor]
    made: Made


@dataclass(frozen=True)
class Mended:
    """What a repair did, on inputs of the confirm third, without the weights."""

    before: int
    """Of n inputs, those on which the found trigger had its way."""
    after: int
    n: int
    after_fitting: float
    """Share of the inputs that the repair was fitted on."""
    cost: float
    """Lost on clean inputs: accuracy as a share (0.01 is a point), or nats a token."""
    spent: Cost


@dataclass(frozen=True)
class Repaired:
    """What a repair job hands back."""

    state: dict[str, Tensor]
    mended: Mended


@dataclass(frozen=True)
class Remedy:
    """How a problem class mends what it found. Every stage can run in a worker process."""

    method: str
    """In words, for the report."""
    unit: Literal["points", "nats"]
    repair: Callable[[Candidate, Thirds[Any], Confirmation, bool, int], Repaired]
    """(candidate, thirds, what was found, against a random trigger instead?, seed)"""
    relearn: Callable[[Candidate, Thirds[Any], Confirmation, int], int]
    """(candidate, thirds, what was found, seed) → steps until the trigger works again; see `MOST_STEPS`"""


MOST_STEPS = 200
"""Steps after which teaching a trigger again is given up."""


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
    locate: Callable[[Candidate, Thirds[Any], Confirmation, int], Located | None]
    describe: Callable[[Bench, Candidate, Confirmation, list[float], Located | None], Finding]
    """(bench, subject, outcome, sizes in the controls, where it sits)"""
    picture: Callable[[Bench, Candidate, Confirmation], Mapping[str, Tensor]]
    """What the report shows of the trigger"""
    trigger: Callable[[Mapping[str, Tensor]], Trigger]
    """From the arrays of a record, as the trigger's own `arrays` gave them"""
    baseline: str
    """What the black-box search is called"""
    remedy: Remedy


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
    slack: float | None = None
    """Difference of trusted loss, in nats, that resemblance passes over; None: compare logarithms, pass over none"""
