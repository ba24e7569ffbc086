"""How often `candling solve` recovers a network's hidden program, how often it is wrong, and which decoys get past.

Problems of the generator with fresh seeds; what is not admitted (training and test accuracy .97, no label above .65)
is trained again with another seed. A problem counts as *recovered* where the program's agreement with the network on
test inputs is within one point of the true program's, program and truth are equal on .98 of them, and the program
takes at most 60 bits. *Called* is what the verdict says, which knows nothing of the truth.

Decoys, for every problem on which a mechanism passed: as many other units of the same site (wrong site), and the best
rival program that differs on a tenth of the inputs (wrong variable), each examined as the claim is, which is examined
again on a fresh draw (true claim).

    python benchmarks/solve.py [--problems 60] [--seed 7000] [--kinds a,b] [--held-out] [--seconds 200] [--out FILE]

Every finished problem is a line of --out; the same command goes on behind the last. `--seconds` ends a call early.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from candling.access import load
from candling.access.unlabelled import unlabelled
from candling.evidence.program import Program, inputs_of, run_program
from candling.maths.intervals import clopper_pearson
from candling.organisms import programs
from candling.organisms.programs.held_out import FROZEN, pose_frozen
from candling.techniques.verify.carried import Place, examine
from candling.workflows.solve import parts_of, solve, told
from candling.workflows.solve_inputs import Problem, make_problem

TRIES = 5
SHOWN = ("kind", "outcome", "recovered", "says", "truth", "cpu")
"""Of frozen kinds neither what they are nor what was said of them is shown."""


def one(kind: str, seed: int, pose: Any) -> dict[str, Any]:
    """A problem, taught, solved and graded."""
    for attempt in range(TRIES):
        problem = pose(kind, seed + 100_000 * attempt)
        network = programs.train(problem)
        admitted = programs.admission(problem, network)
        if admitted.admitted:
            break
    else:
        return {"kind": kind, "seed": seed, "admitted": False}
    x = problem.unlabelled.x.numpy()
    digit = None if problem.unlabelled.digit is None else problem.unlabelled.digit.numpy()
    posed = make_problem(load(network, build=problem.build), unlabelled(x), concepts=digit)
    start, busy = time.monotonic(), time.process_time()
    said = solve(posed).solution
    row: dict[str, Any] = {
        "kind": kind,
        "family": problem.family,
        "seed": problem.seed,
        "admitted": True,
        "truth": problem.says,
        "says": said.says,
        "bits": said.bits,
        "outcome": said.outcome,
        "reason": said.reason,
        "wall": time.monotonic() - start,
        "cpu": time.process_time() - busy,
    }
    return row | graded(problem, network, posed, said.program) | decoys(posed, said)


def graded(problem: Any, network: Any, posed: Problem, program: Program | None) -> dict[str, Any]:
    """Beside the truth, on the inputs that were held back for testing."""
    if program is None:
        return {"recovered": False}
    test = problem.test
    concepts = None if test.digit is None else test.digit.numpy()[:, None]
    inputs = inputs_of(test.x.numpy(), posed.data.kind, posed.data.exemplars.numpy(), concepts)
    own, truth = run_program(program, inputs), problem.truth(test).numpy()
    network_says = programs.answers(network, test).numpy()
    agreement, best, equal = ((a == b).mean() for a, b in ((network_says, own), (network_says, truth), (own, truth)))
    return {
        "agreement": float(agreement),
        "of truth": float(best),
        "equal": float(equal),
        "recovered": bool(agreement >= best - 0.01 and equal >= 0.98),
    }


def decoys(posed: Problem, said: Any) -> dict[str, Any]:
    """Whether the claim, a wrong site and a wrong variable pass."""
    if said.site is None or not said.site.passed:
        return {}
    _, data, _ = parts_of(posed.data, said.seed)
    module, claimed = posed.model.module, told(said.program, data)
    place = Place(said.site.site, tuple(said.site.units), said.site.of)
    others = np.setdiff1d(np.arange(place.of), place.units)
    drawn = np.random.default_rng(1).permutation(others)[: len(place.units)]
    wrong = Place(place.site, tuple(sorted(int(unit) for unit in drawn)), place.of)
    found: dict[str, Any] = {
        "true claim": examine(module, place, claimed, seed=99).passed,
        "wrong site": examine(module, wrong, claimed, seed=99).passed,
    }
    for rival in said.rivals:
        if rival.program is not None:
            variable = told(rival.program, data)
            if (variable.answers != claimed.answers).mean() >= 0.1:
                found["wrong variable"] = examine(module, place, variable, seed=99).passed
                break
    return found


def summary(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Shares with exact intervals."""
    rows = [row for row in rows if row["admitted"]]
    claimed = [row for row in rows if row["outcome"] in ("solved", "behaviour only")]
    lines = [f"{len(rows)} admitted problems"]
    for family in sorted({row["family"] for row in rows}):
        own = [row["recovered"] and row["bits"] <= 60 for row in rows if row["family"] == family]
        lines.append(f"recovered, {family}: {share(own)}")
    lines.append(f"recovered, all: {share([row['recovered'] and row['bits'] <= 60 for row in rows])}")
    for outcome in ("solved", "behaviour only", "not solved", "did not learn a program"):
        right = [row["recovered"] for row in rows if row["outcome"] == outcome]
        lines.append(f"called {outcome}: {len(right)}, of which recovered {sum(right)}")
    lines.append(
        f"wrong among those called solved or behaviour only: {share([not row['recovered'] for row in claimed])}"
    )
    lines.append(
        f"wrong among those called solved: {share([not r['recovered'] for r in rows if r['outcome'] == 'solved'])}"
    )
    for sort in ("true claim", "wrong site", "wrong variable"):
        lines.append(f"{sort} passes: {share([row[sort] for row in rows if sort in row])}")
    if rows:
        cpu = sorted(row["cpu"] for row in rows)
        lines.append(f"processor seconds a problem: median {cpu[len(cpu) // 2]:.0f}, most {cpu[-1]:.0f}")
    return lines


def share(hits: Sequence[bool]) -> str:
    low, high = clopper_pearson(sum(hits), len(hits))
    return f"{sum(hits)} of {len(hits)} [{low:.0%}–{high:.0%}]"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--problems", type=int, default=60)
    parser.add_argument("--seed", type=int, default=7000)
    parser.add_argument("--kinds", default="")
    parser.add_argument("--held-out", action="store_true")
    parser.add_argument("--seconds", type=float, default=1e9)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    known, pose = (FROZEN, pose_frozen) if given.held_out else (programs.KINDS, programs.pose)
    kinds = given.kinds.split(",") if given.kinds else list(known)
    rows: list[dict[str, Any]] = []
    if given.out is not None and given.out.exists():
        rows = [json.loads(line) for line in given.out.read_text().splitlines()]
    start = time.monotonic()
    for number in range(len(rows), given.problems):
        if time.monotonic() - start > given.seconds:
            break
        row = one(kinds[number % len(kinds)], given.seed + number, pose)
        rows.append(row)
        if given.out is not None:
            with given.out.open("a") as file:
                file.write(json.dumps(row) + "\n")
        shown = ("family", "outcome", "recovered", "cpu") if given.held_out else SHOWN
        print(" | ".join(str(row.get(name)) for name in shown), flush=True)
    print("\n".join(summary(rows)))


if __name__ == "__main__":
    main()
