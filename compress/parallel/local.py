"""The engine for this machine: the calling process, or processes with one thread each."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

from compress.parallel.engine import ATTEMPTS, Failure, Work, told
from compress.parallel.workers import WorkerKilledError, each, run_in_process


@dataclass(frozen=True)
class Local:
    """Run jobs on this machine, in order.

    If a worker process is killed, each unfinished job is rerun in a process of its own to find the one that
    kills it. With one worker, jobs run in the calling process: a job that kills it ends the run.
    """

    name: ClassVar[str] = "local"
    elsewhere: ClassVar[bool] = False

    @contextmanager
    def open(self, make: Callable[..., Work], workers: int) -> Iterator[LocalPool]:
        if workers < 1:
            raise ValueError(f"workers={workers}: choose 1 or more")
        work = make()
        if workers > 1 and not work.forks:
            raise ValueError(
                f"workers={workers}: choose 1, or more with a model on the CPU (this one: {work.machine}); "
                f"for several devices name them (--devices), or choose the engine ray"
            )
        yield LocalPool(work, workers)


class LocalPool:
    """One `Work`, shared by worker processes that start with the first job."""

    def __init__(self, work: Work, workers: int):
        self.about, self.machines = work.about, (work.machine,)
        self._attempt, self._workers = _Attempts(work), workers

    def each(self, jobs: Iterable[Any]) -> Generator[tuple[Any, Any | Failure], None, None]:
        left = iter(jobs)
        while True:
            try:
                yield from each(self._attempt, left, self._workers, ordered=True)
                return
            except WorkerKilledError as killed:
                for job in killed.jobs:
                    yield job, self._suspect(job)

    def _suspect(self, job: Any) -> Any | Failure:
        reasons = []
        for _ in range(ATTEMPTS):
            try:
                return run_in_process(self._attempt, job)
            except WorkerKilledError:
                reasons.append("its worker was killed, perhaps for lack of memory")
        return Failure(tuple(reasons))


@dataclass(frozen=True)
class _Attempts:
    """The work, retried up to `ATTEMPTS` times."""

    work: Work

    def __call__(self, job: Any) -> Any | Failure:
        reasons = []
        for _ in range(ATTEMPTS):
            try:
                return self.work(job)
            except Exception as problem:  # any exception is this job's failure and is stored with it
                reasons.append(told(problem))
        return Failure(tuple(reasons))
