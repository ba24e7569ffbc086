"""Run jobs in worker processes or in this one, and get along with those that run out of memory."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from joblib import Parallel, delayed, parallel_config
from joblib.externals.loky.process_executor import TerminatedWorkerError


@runtime_checkable
class Shrinkable(Protocol):
    """A job's argument that decides how much memory is taken."""

    @property
    def batch(self) -> int: ...

    def smaller(self) -> Shrinkable | None:
        """The same with half the batch; None where it cannot be halved."""
        ...


@dataclass(frozen=True)
class Starved:
    """In place of the result of a job that did not get the memory that it asked for."""

    why: str = "memory"


Outcome = tuple[int, Any, str]
"""A job's number, its result or `Starved`, and a note on how it was run."""


def outcomes_of(
    function: Callable[..., Any], jobs: Sequence[tuple[Any, ...]], todo: list[int], width: int
) -> Generator[Outcome, None, None]:
    """As they come. Jobs that need to be alone follow when the others are done."""
    apart = width > 1
    waiting = list(todo)
    starved: dict[int, bool] = {}  # whether it was alone then
    while waiting:
        try:
            for index, result in _pool(function, jobs, waiting, width):
                waiting.remove(index)
                if isinstance(result, Starved):
                    starved[index] = False
                else:
                    yield index, result, ""
        except TerminatedWorkerError:
            # Nobody says whose job it was, but jobs are begun in order: it was among the first.
            suspects, waiting = waiting[:width], waiting[width:]
            for index in suspects:
                result = _once(function, jobs[index], apart)
                if isinstance(result, Starved):
                    starved[index] = True
                else:
                    yield index, result, ""
    for index, was_alone in starved.items():
        yield index, *_alone(function, jobs[index], apart, was_alone)


def _pool(
    function: Callable[..., Any], jobs: Sequence[tuple[Any, ...]], numbers: Sequence[int], width: int
) -> Iterator[tuple[int, Any]]:
    """The numbered jobs' results as they come."""
    if width <= 1:
        yield from (_numbered(function, index, jobs[index]) for index in list(numbers))
        return
    with parallel_config(backend="loky", n_jobs=width, inner_max_num_threads=1):
        pool = Parallel(return_as="generator_unordered", pre_dispatch="2*n_jobs")
        results = pool(delayed(_numbered)(function, index, jobs[index]) for index in list(numbers))
    with closing(results):
        yield from results


def _numbered(function: Callable[..., Any], index: int, job: tuple[Any, ...]) -> tuple[int, Any]:
    try:
        return index, function(*job)
    except (MemoryError, torch.OutOfMemoryError):
        return index, Starved()
    except RuntimeError as fault:  # what torch raises on the CPU
        if "can't allocate memory" in str(fault) or "not enough memory" in str(fault):
            return index, Starved()
        raise


def _once(function: Callable[..., Any], job: tuple[Any, ...], apart: bool) -> Any:
    """One job by itself; apart: in a process of its own, which it may take down."""
    try:
        ((_, result),) = _pool(function, [job], [0], 2 if apart else 1)
    except TerminatedWorkerError:
        return Starved()
    return result


def _alone(function: Callable[..., Any], job: tuple[Any, ...], apart: bool, was_alone: bool) -> tuple[Any, str]:
    """With half the batch again and again; where nothing can be halved, once as it is."""
    attempt = _halved(job)
    if attempt is None and not was_alone:
        attempt = job, "what it had"
    result, note = Starved(), ""
    while attempt is not None and isinstance(result, Starved):
        job, note = attempt
        result = _once(function, job, apart)
        attempt = _halved(job)
    return result, note


def _halved(job: tuple[Any, ...]) -> tuple[tuple[Any, ...], str] | None:
    smaller = [part.smaller() if isinstance(part, Shrinkable) else None for part in job]
    batches = [part.batch for part in smaller if part is not None]
    if not batches:
        return None
    changed = tuple(part if new is None else new for part, new in zip(job, smaller, strict=True))
    return changed, f"batch {min(batches)}"
