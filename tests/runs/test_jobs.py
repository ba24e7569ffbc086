"""Jobs: the same results in the same order, wherever they run."""

import math
import operator
import os

import pytest

from candling.runs.jobs import run_jobs

JOBS = [(i, i % 4 + 1) for i in range(9)]


@pytest.mark.parametrize("workers", [1, 2])
def test_results_come_in_the_order_of_the_jobs(workers):
    assert run_jobs(divmod, JOBS, stage="dividing", workers=workers) == [divmod(*job) for job in JOBS]


@pytest.mark.parametrize("workers", [1, 2])
def test_progress_counts_every_job_once_from_none_to_all(workers):
    calls = []
    run_jobs(operator.mul, JOBS, stage="times", workers=workers, progress=lambda *call: calls.append(call))
    assert calls == [("times", done, len(JOBS)) for done in range(len(JOBS) + 1)]


@pytest.mark.parametrize("workers", [None, 1, 2])
def test_no_jobs_are_no_work(workers):
    calls = []
    assert run_jobs(math.sqrt, [], stage="none", workers=workers, progress=lambda *call: calls.append(call)) == []
    assert calls == [("none", 0, 0)]


@pytest.mark.parametrize("workers", [1, 2])
def test_what_a_job_raises_comes_through(workers):
    with pytest.raises(ZeroDivisionError):
        run_jobs(operator.truediv, [(1, 1), (1, 0), (1, 2)], stage="dividing", workers=workers)


def test_one_worker_is_this_process_and_two_are_others():
    assert set(run_jobs(os.getpid, [()] * 3, stage="here", workers=1)) == {os.getpid()}
    assert os.getpid() not in run_jobs(os.getpid, [()] * 3, stage="there", workers=2)


def test_a_worker_has_one_thread():
    assert run_jobs(os.getenv, [("OMP_NUM_THREADS",)] * 2, stage="threads", workers=2) == ["1", "1"]


def test_more_workers_than_jobs_are_not_started():
    assert run_jobs(os.getpid, [()], stage="one", workers=2) == [os.getpid()]
