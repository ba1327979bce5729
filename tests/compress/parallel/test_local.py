"""The engine of this machine: a result or a failure for every job, once, whatever happens to the workers."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from compress.parallel import ATTEMPTS, Failure, Local


class Square:
    """Squares numbers; 3 is no number it knows, 5 kills the process, 7 does so once, and 9 is odd once."""

    machine, forks = "cpu", True

    def __init__(self, folder: Path):
        self.about, self.folder = {"does": "squares"}, folder

    def __call__(self, job: int) -> int:
        if job == 3:
            raise ValueError("three cannot be squared")
        if job == 5 or (job == 7 and self.first(job)):
            os.kill(os.getpid(), signal.SIGKILL)
        if job == 9 and self.first(job):
            raise KeyError("once")
        return job * job

    def first(self, job: int) -> bool:
        marker = self.folder / str(job)
        new = not marker.exists()
        marker.touch()
        return new


def test_a_job_that_fails_three_times_is_given_up_with_the_reasons(tmp_path: Path) -> None:
    with Local().open(lambda: Square(tmp_path), 1) as crew:
        found = dict(crew.each([2, 3, 4, 9]))
    assert found == {2: 4, 3: Failure(("three cannot be squared",) * ATTEMPTS), 4: 16, 9: 81}


@pytest.mark.parametrize("workers", [2, 3])
def test_a_job_that_kills_its_worker_is_found_among_the_others(tmp_path: Path, workers: int) -> None:
    with Local().open(lambda: Square(tmp_path), workers) as crew:
        found = list(crew.each(iter(range(40))))
    assert [job for job, _ in found] == list(range(40))  # in order, none lost, none twice
    failures = {job: made for job, made in found if isinstance(made, Failure)}
    assert set(failures) == {3, 5}
    assert failures[5].reasons == ("its worker was killed, perhaps for lack of memory",) * ATTEMPTS
    assert all(made == job * job for job, made in found if job not in failures)


@pytest.mark.parametrize("workers", [1, 2])
def test_jobs_are_taken_as_they_are_needed(tmp_path: Path, workers: int) -> None:
    taken: list[int] = []

    def jobs() -> Iterator[int]:
        for job in range(10, 1000):
            taken.append(job)
            yield job

    with Local().open(lambda: Square(tmp_path), workers) as crew:
        outcomes = crew.each(jobs())
        assert next(outcomes) == (10, 100)
        assert len(taken) <= 8
        outcomes.close()


def test_impossible_crews_are_refused(tmp_path: Path) -> None:
    class OnGpu(Square):
        machine, forks = "NVIDIA H200", False

    with pytest.raises(ValueError, match="workers=0: choose 1 or more"), Local().open(Square, 0):
        pass
    with (
        pytest.raises(ValueError, match="workers=2: choose 1, or more with a model on the CPU .*NVIDIA H200"),
        Local().open(lambda: OnGpu(tmp_path), 2),
    ):
        pass
