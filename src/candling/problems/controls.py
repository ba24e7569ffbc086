"""Controls made for one network: networks of its architecture with a known problem, and without.

A copy of the subject is never a control: it may already carry the problem.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from candling.evidence.control import Plant
from candling.evidence.measurement import Cost
from candling.problems.candidates import Candidate
from candling.problems.contract import Bench, Problem
from candling.problems.outcomes import Made, Trained
from candling.runs.jobs import Keep
from candling.runs.seeds import derive

Role = Literal["subject", "negative", "positive"]

_GOLDEN = 0.6180339887498949  # steps by it, modulo one, cover the range evenly for any number of them


@dataclass(frozen=True)
class Network:
    """The subject or a control, as the driver knows it: a detection job gets the `candidate` alone."""

    name: str
    role: Role
    recipe: str
    candidate: Candidate
    sha256: str
    loss: float
    """On the search third, nats."""
    accuracy: float
    plant: Plant | None
    cost: Cost


def make_negatives(bench: Bench, n: int, *, reach: float, what: str = "clean controls") -> list[Network]:
    """n clean networks. reach: the subject's loss on the search third, nats."""
    jobs = [(bench, None, i, 0.0, reach, derive(bench.seed, "negative", i)) for i in range(n)]
    return _train(bench, "negative", jobs, f"training {what}")


def make_positives(bench: Bench, n: int, *, reach: float, problem: Problem) -> list[Network]:
    """n networks with the problem's plants: families in turn, doses spread evenly from a random start."""
    start = derive(bench.seed, problem.name, "dose") / 2**63
    jobs = [
        (bench, problem.plant, i, (start + i * _GOLDEN) % 1.0, reach, derive(bench.seed, problem.name, i))
        for i in range(n)
    ]
    return _train(bench, "positive", jobs, "training planted controls")


def _train(bench: Bench, role: Role, jobs: list[tuple[Any, ...]], stage: str) -> list[Network]:
    keep = Keep(partial(_stored, bench), lambda stored: bench.has(stored.sha256))
    networks = []
    for i, stored in enumerate(bench.run(bench.kind.train, jobs, stage=stage, keep=keep)):
        made = stored.made
        networks.append(
            Network(
                name=f"{role}-{i:02d}",
                role=role,
                recipe=made.recipe,
                candidate=bench.candidate(bench.path(stored.sha256)),
                sha256=stored.sha256,
                loss=made.loss,
                accuracy=made.accuracy,
                plant=made.plant,
                cost=made.cost,
            )
        )
    return networks


@dataclass(frozen=True)
class Stored:
    """What is kept of a training job: the weights lie in the run folder, under their SHA-256."""

    sha256: str
    made: Made


def _stored(bench: Bench, trained: Trained) -> Stored:
    _, sha256 = bench.store(trained.state)
    return Stored(sha256, trained.made)
