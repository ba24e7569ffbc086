"""A run in small: twenty tiny jobs through the real jobs, ledger and record files, ending in a verdict.

python fake_run.py FOLDER [--workers N] [--seconds S] [--trusted SHA256] [--hungry] [--count N]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from candling import cli
from candling.evidence.measurement import Cost
from candling.runs.files import write_whole
from candling.runs.jobs import Keep, Progress, run_jobs, silent
from candling.runs.record import open_run
from candling.runs.seeds import reproducible

JOBS = 10
SEED = 8


@dataclass(frozen=True)
class Network:
    """A job's argument that can be halved. From `limit` on it does not fit."""

    seed: int
    batch: int = 256
    limit: int = 10**9
    seconds: float = 0.0

    @property
    def fingerprint(self) -> object:
        return self.seed, self.batch

    def smaller(self) -> Network | None:
        return replace(self, batch=self.batch // 2) if self.batch > 64 else None


@dataclass(frozen=True)
class Trained:
    weights: Tensor
    loss: float


@dataclass(frozen=True)
class Stored:
    sha256: str
    loss: float


@dataclass(frozen=True)
class Found:
    score: Tensor
    cost: Cost
    parts: tuple[str, ...]


def train(network: Network) -> Trained:
    if network.batch >= network.limit:
        raise MemoryError
    time.sleep(network.seconds)
    with reproducible(network.seed):
        weights = torch.randn(40)
        return Trained(weights, float(weights.square().mean()))


def search(network: Network, name: str) -> Found:
    time.sleep(network.seconds)
    with reproducible(network.seed + 1):
        return Found(torch.randn(3, 2), Cost(forward=network.batch, backward=0), (name, "ü"))


def store(folder: Path, trained: Trained) -> Stored:
    data = trained.weights.numpy().tobytes()
    sha256 = hashlib.sha256(data).hexdigest()
    (folder / "networks").mkdir(exist_ok=True)
    write_whole(weights_file(folder, sha256), data)
    return Stored(sha256, trained.loss)


def weights_file(folder: Path, sha256: str) -> Path:
    return folder / "networks" / f"{sha256[:16]}.safetensors"


def intact(folder: Path, stored: Stored) -> bool:
    path = weights_file(folder, stored.sha256)
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == stored.sha256


def run(
    folder: Path,
    *,
    count: int = JOBS,
    workers: int = 1,
    seconds: float = 0.0,
    trusted: str = "0",
    hungry: dict[int, int] | None = None,
    progress: Progress = silent,
) -> None:
    """hungry: batch from which a job does not fit, by its number."""
    inputs = {"weights w.safetensors": "1", "trusted t.npz": trusted, "seed": str(SEED)}
    with open_run(folder, inputs) as (_, ledger):
        networks = [Network(SEED + i, limit=(hungry or {}).get(i, 10**9), seconds=seconds) for i in range(count)]
        keep = Keep(partial(store, folder), partial(intact, folder))
        jobs = [(network,) for network in networks]
        stored = run_jobs(train, jobs, stage="training", workers=workers, progress=progress, ledger=ledger, keep=keep)
        pairs = [(network, s.sha256) for network, s in zip(networks, stored, strict=True)]
        found = run_jobs(search, pairs, stage="searching", workers=workers, progress=progress, ledger=ledger)
        rows = [
            [s.sha256, s.loss, f.score.tolist(), f.cost.forward, f.parts] for s, f in zip(stored, found, strict=True)
        ]
        write_whole(folder / "verdicts.json", (json.dumps(rows, indent=1) + "\n").encode())


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=JOBS)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=0.0)
    parser.add_argument("--trusted", default="0")
    parser.add_argument("--hungry", type=json.loads, default={})
    given = vars(parser.parse_args())
    given["hungry"] = {int(k): v for k, v in given["hungry"].items()}

    def say(stage: str, done: int, total: int) -> None:
        print(stage, done, total, flush=True)

    cli.app = lambda standalone_mode: run(given.pop("folder"), **given, progress=say)  # type: ignore[assignment]
    sys.argv = ["candling"]
    cli.main()


if __name__ == "__main__":
    main()
