"""Run many independent jobs on the machine's cores, results in order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from joblib import Parallel, cpu_count, delayed, parallel_config

R = TypeVar("R")

Progress = Callable[[str, int, int], None]
"""Called with (stage, done, total) whenever something is done."""


def silent(stage: str, done: int, total: int) -> None:
    """The progress of somebody who does not look."""


def run_jobs(
    function: Callable[..., R],
    jobs: Sequence[tuple[Any, ...]],
    *,
    stage: str,
    workers: int | None = None,
    progress: Progress = silent,
) -> list[R]:
    """function(*job) for each job. Each must seed itself: a result may not depend on where it ran.

    workers: processes; None = one per usable core, 1 = in this process (as on an accelerator).
    """
    count = min(workers or cpu_count(), len(jobs))
    progress(stage, 0, len(jobs))
    results: list[R] = []
    for result in _results(function, jobs, count):
        results.append(result)
        progress(stage, len(results), len(jobs))
    return results


def _results(function: Callable[..., R], jobs: Sequence[tuple[Any, ...]], count: int) -> Iterable[R]:
    if count <= 1:
        return (function(*job) for job in jobs)
    with parallel_config(backend="loky", n_jobs=count, inner_max_num_threads=1):
        pool = Parallel(return_as="generator", pre_dispatch="2*n_jobs")
        results: Iterable[R] = pool(delayed(function)(*job) for job in jobs)
        return results
