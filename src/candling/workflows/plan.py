"""Plan: what an audit will cost and what it can resolve, before anything is trained."""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass

import numpy as np
import torch
from joblib import cpu_count
from torch.nn.functional import cross_entropy

from candling.access import Dataset, Model, Tokens, forward
from candling.maths.intervals import clopper_pearson
from candling.organisms.training import most_epochs
from candling.organisms.tuning import LENGTH, tuning_tokens
from candling.problems.backdoor import parts
from candling.problems.language import SOUP
from candling.problems.sequence_backdoor import CONTEXTS, LONGEST
from candling.techniques.search.inversion import sweep_passes
from candling.techniques.search.sequences import sequence_passes
from candling.workflows.case import Case

_TIMED = 256  # rows
_TIMED_TEXTS = 8


@dataclass(frozen=True)
class Plan:
    controls: int
    unit: str
    """What a pass is of."""
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
            f"passes       about {self.forward:,} forward, {self.backward:,} backward, of {self.unit}",
            f"time         about {self.seconds / 60:.1f} minutes on {cpu_count()} cores",
            f"memory       about {self.megabytes:,.0f} MB a worker, {self.disk:,.0f} MB on disk",
        ]


def plan(case: Case, *, controls: int, device: str = "cpu") -> Plan:
    """Estimate from counted passes, and from the time that a few of them take here."""
    if isinstance(case.trusted, Tokens):
        counts = _language_passes(case.trusted, controls)
        inputs, rows = (case.trusted.ids[:_TIMED_TEXTS, :LENGTH],) * 2
        ahead, both = (t / LENGTH for t in _seconds_per_row(case.model, inputs, rows))
    else:
        counts = _classifier_passes(case.trusted, controls)
        ahead, both = _seconds_per_row(case.model, case.trusted.x[:_TIMED], case.trusted.y[:_TIMED])
    forward, backward = counts
    weights = sum(t.numel() * t.element_size() for t in case.model.module.state_dict().values()) / 1e6
    seconds = both * backward + ahead * (forward - backward)
    return Plan(
        controls=controls,
        unit="tokens" if isinstance(case.trusted, Tokens) else "inputs",
        forward=forward,
        backward=backward,
        seconds=seconds / (cpu_count() if torch.device(device).type == "cpu" else 1),
        megabytes=400 + 8 * weights + (0 if isinstance(case.trusted, Tokens) else 16 * case.trusted.x.numel() / 1e6),
        disk=(2 * controls + 2) * weights,
    )


def _classifier_passes(trusted: Dataset, controls: int) -> tuple[int, int]:
    """Forward (those before a backward pass too) and backward passes of one input each."""
    search = sweep_passes(parts(trusted))
    rows = max(1, len(trusted) // 3)
    networks = 2 * controls + 1
    backward = 2 * controls * rows * most_epochs(rows, batch=64) + networks * search
    confirm = networks * (20 + 2 * controls) * min(400, len(trusted) // 3)
    return backward + networks * 2 * search + confirm, backward


def _language_passes(trusted: Tokens, controls: int) -> tuple[int, int]:
    """Forward and backward passes of one token each."""
    networks = 2 * controls + 1
    train = (2 * controls + SOUP) * tuning_tokens()
    search = 2 * sequence_passes(trusted.vocabulary, LONGEST)  # as much again for the baseline
    confirm = networks * 2 * LONGEST * CONTEXTS * (20 + 2 * controls)
    return train + networks * search + confirm, train


def _seconds_per_row(model: Model, x: torch.Tensor, y: torch.Tensor) -> tuple[float, float]:
    """One thread: a forward pass, and a forward with a backward pass."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        probe = x.clone().requires_grad_() if x.is_floating_point() else x
        module = copy.deepcopy(model.module).requires_grad_()
        forward(model, x)
        times: list[tuple[float, float]] = []
        for _ in range(5):
            start = time.perf_counter()
            forward(model, x)
            middle = time.perf_counter()
            cross_entropy(module(probe).flatten(0, -2), y.flatten()).backward()
            times.append((middle - start, time.perf_counter() - middle))
        ahead, both = np.median(np.array(times), axis=0) / len(x)
    finally:
        torch.set_num_threads(threads)
    return float(ahead), float(both)
