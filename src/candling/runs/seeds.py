"""One seed per job, derived from what the job is: order and worker do not matter."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def derive(seed: int, *key: str | int) -> int:
    """A 63-bit seed from the run's seed and the job's key; the same in every process and on every machine."""
    text = "\x1f".join(str(part) for part in (seed, *key))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


@contextmanager
def reproducible(seed: int, threads: int = 1) -> Iterator[torch.Generator]:
    """One thread and torch's global generator seeded, both put back afterwards; yields a generator of its own.

    One thread, since the order of a parallel sum changes its last bits; with more, results are the same on
    machines with as many.
    """
    before = torch.get_num_threads()
    with torch.random.fork_rng():
        torch.set_num_threads(threads)
        torch.manual_seed(seed)
        try:
            yield torch.Generator().manual_seed(derive(seed, "own"))
        finally:
            torch.set_num_threads(before)
