"""Plan: what an audit will cost and what it can resolve, before anything is trained."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import torch
from joblib import cpu_count
from torch.nn.functional import cross_entropy

from candling.access import Dataset, Model, check_fits, forward
from candling.maths.intervals import clopper_pearson
from candling.organisms.training import most_epochs
from candling.problems.backdoor import parts
from candling.techniques.search.inversion import sweep_passes

_TIMED = 256  # rows


@dataclass(frozen=True)
class Plan:
    controls: int
    forward: int
    backward: int
    seconds: float
    megabytes: float
    disk: float

    def lines(self) -> list[str]:
        """For people."""
        low, high = clopper_pearson(round(0.9 * self.controls), self.controls)
        return [
            f"controls     {self.controls} clean, {self.controls} planted",
            f"resolves     p >= {1 / (self.controls + 1):.3g}; false-accusation bound "
            f"{clopper_pearson(0, self.controls)[1]:.0%} when no control is accused",
            f"sensitivity  a 95 % interval about {high - low:.0%} wide, if nine in ten plants are caught",
            f"passes       about {self.forward:,} forward, {self.backward:,} backward",
            f"time         about {self.seconds / 60:.1f} minutes on {cpu_count()} cores",
            f"memory       about {self.megabytes:,.0f} MB a worker, {self.disk:,.0f} MB on disk",
        ]


def plan(model: Model, trusted: Dataset, *, controls: int, device: str = "cpu") -> Plan:
    """Estimate from counted passes, and from the time that a few of them take here."""
    check_fits(trusted, model.module)
    search = sweep_passes(parts(trusted))
    rows = max(1, len(trusted) // 3)
    train = 2 * controls * rows * most_epochs(rows, batch=64)
    networks = 2 * controls + 1
    confirm = networks * (20 + 2 * controls) * min(400, len(trusted) // 3)
    ahead, both = _seconds_per_row(model, trusted.x[:_TIMED], trusted.y[:_TIMED])
    backward = train + networks * search
    seconds = both * backward + ahead * (networks * 2 * search + confirm)
    weights = sum(t.numel() * t.element_size() for t in model.module.state_dict().values()) / 1e6
    return Plan(
        controls=controls,
        forward=backward + networks * 2 * search + confirm,
        backward=backward,
        seconds=seconds / (cpu_count() if torch.device(device).type == "cpu" else 1),
        megabytes=400 + 4 * trusted.x.numel() * 4 / 1e6 + 8 * weights,
        disk=networks * weights,
    )


def _seconds_per_row(model: Model, x: torch.Tensor, y: torch.Tensor) -> tuple[float, float]:
    """One thread: a forward pass, and a forward with a backward pass."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        probe = x.clone().requires_grad_()
        forward(model, x)
        times: list[tuple[float, float]] = []
        for _ in range(5):
            start = time.perf_counter()
            forward(model, x)
            middle = time.perf_counter()
            cross_entropy(model.module(probe), y).backward()
            times.append((middle - start, time.perf_counter() - middle))
        ahead, both = np.median(np.array(times), axis=0) / len(x)
    finally:
        torch.set_num_threads(threads)
    return float(ahead), float(both)
