from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Iterator

import pytest

from compress.parallel.workers import AHEAD, each


def slow_first(job: int) -> int:
    time.sleep(0.3 if job == 0 else 0)
    return job * job


@pytest.mark.parametrize("workers", [1, 2])
def test_ordered_results_come_as_the_jobs(workers: int):
    pairs = list(each(slow_first, range(20), workers, ordered=True))
    assert pairs == [(job, job * job) for job in range(20)]


def test_finished_results_do_not_wait_for_a_slow_one():
    pairs = list(each(slow_first, range(6), 2))
    assert pairs[0] != (0, 0) and sorted(pairs) == [(job, job * job) for job in range(6)]


def test_jobs_are_taken_as_they_are_needed():
    taken: list[int] = []

    def jobs() -> Iterator[int]:
        for job in range(1000):
            taken.append(job)
            yield job

    made = each(slow_first, jobs(), 2, ordered=True)
    next(made)
    assert len(taken) <= 2 * AHEAD
    made.close()


def kill(job: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return job


def test_a_killed_worker_is_one_clear_error():
    with pytest.raises(OSError, match="a worker was killed, perhaps for lack of memory"):
        list(each(kill, range(3), 2))


def kill_first(job: int) -> int:
    return kill(job) if job == 0 else slow_first(job)


def test_workers_end_although_the_caller_takes_no_notice_of_sigterm():
    before = signal.signal(signal.SIGTERM, lambda *_: time.sleep(60))  # Ray's handler, for instance, waits
    try:
        with pytest.raises(OSError, match="a worker was killed"):
            list(each(kill_first, range(3), 2))
    finally:
        signal.signal(signal.SIGTERM, before)
    assert not multiprocessing.active_children()
