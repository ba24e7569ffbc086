"""Which problems are admitted: a network for every kind and seed, beside the bars.

    python benchmarks/problems.py [--seeds 3] [--first 5000] [--kinds "l1,order"] [--frozen] [--workers 1]
    python benchmarks/problems.py --export FOLDER --kinds l1 --first 7

Prints for each kind the share admitted, lowest accuracies and time, and for what was not admitted why. `--frozen`
does the same for the kinds of `held_out.py`, without a word of what they are.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import torch

from candling.organisms.programs import KINDS, Admission, admission, pose, train
from candling.organisms.programs.export import export
from candling.organisms.programs.held_out import FROZEN, pose_frozen
from candling.runs.jobs import run_jobs
from common import of, progress

Row = tuple[Admission, float]


def row(kind: str, seed: int, frozen: bool) -> Row:
    """How well the network of a problem learned, and the seconds of CPU that it took."""
    problem = pose_frozen(kind, seed) if frozen else pose(kind, seed)
    start = time.process_time()
    network = train(problem)
    return admission(problem, network), time.process_time() - start


def main() -> None:
    options = argparse.ArgumentParser()
    for name, default in (("seeds", 3), ("first", 5000), ("workers", 1)):
        options.add_argument(f"--{name}", type=int, default=default)
    options.add_argument("--kinds", default="")
    options.add_argument("--frozen", action="store_true")
    options.add_argument("--export", type=Path)
    chosen = options.parse_args()
    kinds = chosen.kinds.split(",") if chosen.kinds else list(FROZEN if chosen.frozen else KINDS)
    if chosen.export:
        problem = (pose_frozen if chosen.frozen else pose)(kinds[0], chosen.first)
        chosen.export.mkdir(parents=True, exist_ok=True)
        network = train(problem)
        export(problem, network, chosen.export)
        print(f"{chosen.export}: {admission(problem, network)}")
        return
    seeds = range(chosen.first, chosen.first + chosen.seeds)
    jobs = [(kind, seed, chosen.frozen) for kind in kinds for seed in seeds]
    rows = run_jobs(row, jobs, stage="teaching", workers=chosen.workers, progress=progress())
    show(kinds, seeds, rows, frozen=chosen.frozen)


def show(kinds: list[str], seeds: range, rows: list[Row], *, frozen: bool) -> None:
    print(f"{'kind':20s} admitted  training ≥  test ≥  CPU s (mean)")
    for i, kind in enumerate(kinds):
        own = rows[i * len(seeds) : (i + 1) * len(seeds)]
        found = [admitted for admitted, _ in own]
        print(
            f"{f'frozen {i + 1}' if frozen else kind:20s} {sum(a.admitted for a in found)} of {len(own)}    "
            f"{min(a.training for a in found):.3f}       {min(a.test for a in found):.3f}   "
            f"{sum(seconds for _, seconds in own) / len(own):.1f}"
        )
        for seed, a in zip(seeds, found, strict=True):
            if not a.admitted:
                print(f"    seed {seed}: {'; '.join(a.reasons)}")
    print("admitted", of(sum(a.admitted for a, _ in rows), len(rows)))


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main())
