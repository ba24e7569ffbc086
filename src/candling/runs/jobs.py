"""Run many independent jobs on the machine's cores, results in order, each recorded as soon as it is there."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, overload

from joblib import cpu_count

from candling.errors import InputError, JobsFailed
from candling.runs.codec import Undecodable, classes_in, decode, encode
from candling.runs.fingerprint import keys
from candling.runs.ledger import Ledger
from candling.runs.pool import Starved, outcomes_of

R = TypeVar("R")
K = TypeVar("K")

Progress = Callable[[str, int, int], None]
"""Called with (stage, done, total) at the start of a stage and whenever something is done.

What the ledger had is done at the start.
"""

_log = logging.getLogger(__name__)


def silent(stage: str, done: int, total: int) -> None:
    """The progress of somebody who does not look."""


@dataclass(frozen=True)
class Keep(Generic[R, K]):
    """What is kept of a result where that is not the result itself."""

    put: Callable[[R], K]
    """Called in this process with each result; what it returns (as annotated) is recorded and handed on."""
    intact: Callable[[K], bool]
    """Whether what a record refers to is still there. If not, the job is run again."""


@overload
def run_jobs(
    function: Callable[..., R],
    jobs: Sequence[tuple[Any, ...]],
    *,
    stage: str,
    workers: int | None = None,
    progress: Progress = silent,
    ledger: Ledger | None = None,
    keep: None = None,
) -> list[R]: ...
@overload
def run_jobs(
    function: Callable[..., R],
    jobs: Sequence[tuple[Any, ...]],
    *,
    stage: str,
    workers: int | None = None,
    progress: Progress = silent,
    ledger: Ledger | None = None,
    keep: Keep[R, K],
) -> list[K]: ...
def run_jobs(
    function: Callable[..., Any],
    jobs: Sequence[tuple[Any, ...]],
    *,
    stage: str,
    workers: int | None = None,
    progress: Progress = silent,
    ledger: Ledger | None = None,
    keep: Keep[Any, Any] | None = None,
) -> list[Any]:
    """function(*job) for each job. Each must seed itself: a result may not depend on where it ran.

    workers: processes; None = one per usable core, 1 = in this process (as on an accelerator).
    ledger: jobs that it has are not run again; every other is recorded when it is done. A job that was
    killed before its record was written is run twice.

    A job that runs out of memory, or takes its process down, is run again alone, with `smaller` arguments as
    long as there are any. Raises JobsFailed for those that failed even so, when all others are done; and
    whatever a job raises, at once.
    """
    pages = _Pages(function, jobs, stage, ledger, keep)
    results = pages.recorded()
    progress(stage, len(results), len(jobs))
    todo = [index for index in range(len(jobs)) if index not in results]
    failed: dict[int, str] = {}
    width = min(workers or cpu_count(), len(todo))
    with closing(outcomes_of(function, jobs, todo, width)) as outcomes:
        for index, outcome, note in outcomes:
            if isinstance(outcome, Starved):
                failed[index] = outcome.why
                pages.failed(index, outcome.why)
            else:
                results[index] = pages.done(index, outcome, note)
            progress(stage, len(results) + len(failed), len(jobs))
    if failed:
        raise _jobs_failed(stage, failed, len(jobs))
    return [results[index] for index in range(len(jobs))]


def _jobs_failed(stage: str, failed: dict[int, str], total: int) -> JobsFailed:
    shown = ", ".join(f"job {index + 1} ({why})" for index, why in sorted(failed.items())[:4])
    more = f" and {len(failed) - 4} more" if len(failed) > 4 else ""
    kept = f"{total - len(failed)} of {total} are kept"
    return JobsFailed("jobs", f"{stage}: {shown}{more} failed, {kept}; free memory and run the same command again")


class _Pages:
    """One stage's part of the ledger, if there is one."""

    def __init__(
        self,
        function: Callable[..., Any],
        jobs: Sequence[tuple[Any, ...]],
        stage: str,
        ledger: Ledger | None,
        keep: Keep[Any, Any] | None,
    ) -> None:
        self.stage, self.ledger, self.keep = stage, ledger, keep
        if ledger is not None:
            self.keys = keys(function, jobs)
            self.classes = classes_in(keep.put if keep else function)

    def recorded(self) -> dict[int, Any]:
        """By the number of the job. Raises InputError for a record that cannot be read."""
        found: dict[int, Any] = {}
        if self.ledger is None:
            return found
        for index, key in enumerate(self.keys):
            payload = self.ledger.get(key)
            if payload is None:
                continue
            try:
                value = decode(payload, self.classes)
            except Undecodable as fault:
                where = f"{self.stage}, job {index + 1}"
                raise InputError("record", f"the record of {where} cannot be read: {fault}") from fault
            if self.keep is None or self.keep.intact(value):
                found[index] = value
            else:
                _log.warning(
                    "%s, job %d: a file of its is missing or altered; it is run again", self.stage, index + 1
                )
        return found

    def done(self, index: int, result: Any, note: str) -> Any:
        value = self.keep.put(result) if self.keep else result
        if note:
            _log.warning("%s, job %d: out of memory; run alone with %s", self.stage, index + 1, note)
        if self.ledger is not None:
            payload = encode(value, self.classes)
            self.ledger.done(self.keys[index], self.stage, index, payload, note)
        return value

    def failed(self, index: int, why: str) -> None:
        if self.ledger is not None:
            self.ledger.failed(self.keys[index], self.stage, index, why)
