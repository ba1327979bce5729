"""Run one function on many jobs in this process or in single-threaded processes, with the same results."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from multiprocessing.connection import wait as wait_for_end
from multiprocessing.context import ForkServerContext, SpawnContext
from typing import Any, TypeVar

import torch
from threadpoolctl import threadpool_limits

Job = TypeVar("Job")
R = TypeVar("R")

IMPORTED = ("compress.models.loading", "transformers.generation.utils")  # modules that are slow to import
AHEAD = 4  # jobs per worker that are queued at a time, so that a long list is never held in memory


class WorkerKilledError(OSError):
    """A worker process was killed; `jobs` are those that were handed out and have no result."""

    def __init__(self, jobs: Sequence[Any]):
        super().__init__(
            "a worker was killed, perhaps for lack of memory; finished work is kept: "
            "run again, with fewer workers"
        )
        self.jobs = jobs


def each(
    work: Callable[[Job], R], jobs: Iterable[Job], workers: int = 1, *, ordered: bool = False
) -> Generator[tuple[Job, R], None, None]:
    """Yield pairs of job and result as they finish, or with `ordered` in the order of the jobs.

    Each job runs in one thread, since the number of threads may change the last bits of a result.
    `WorkerKilledError` if a worker is killed.
    """
    if workers > 1:
        yield from _in_processes(work, jobs, workers, ordered)
        return
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            for job in jobs:
                yield job, work(job)
    finally:
        torch.set_num_threads(threads)


def run_in_process(work: Callable[[Job], R], job: Job) -> R:
    """Run one job in a process of its own; `WorkerKilledError` if the process is killed."""
    return next(_in_processes(work, [job], 1, ordered=True))[1]


def _in_processes(
    work: Callable[[Job], R], jobs: Iterable[Job], workers: int, ordered: bool
) -> Generator[tuple[Job, R], None, None]:
    # Forked workers share the weights and start at once. Where forking is unsafe, the work is pickled.
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    executor = ProcessPoolExecutor(workers, context, _start, (work,))
    left, waiting, taken = iter(jobs), dict[Future[R], Job](), deque[Job]()
    try:
        while True:
            taken.extend(islice(left, AHEAD * workers - len(waiting)))
            while taken:
                waiting[executor.submit(_call, taken[0])] = taken[0]
                taken.popleft()
            if not waiting:
                return
            first = next(iter(waiting))
            for future in [first] if ordered else wait(waiting, return_when=FIRST_COMPLETED).done:
                result = future.result()
                yield waiting.pop(future), result
    except BrokenProcessPool as broken:
        raise WorkerKilledError([*waiting.values(), *taken]) from broken
    finally:
        executor.shutdown(cancel_futures=True)


def new_processes() -> ForkServerContext | SpawnContext:
    """Return a multiprocessing context for processes that share no memory with this one.

    On Linux without an accelerator, they are forked from a server that has imported the libraries. The
    imports, which take seconds, thus run once and not for every process and replacement. The environment is
    that at the server's start. With an accelerator each process is spawned: imports may initialise the GPU,
    which does not work in processes forked afterwards.
    """
    if sys.platform != "linux" or torch.accelerator.is_available():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["__main__", *IMPORTED])
    return context


_work: Callable[[Any], Any] | None = None  # set once at the start of a worker process


def _start(work: Callable[[Any], Any]) -> None:
    global _work
    serve_parent()
    _work = work


def serve_parent() -> None:
    """Make this process a worker: it ends with its parent, ignores Ctrl-C, and uses one thread."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # an inherited handler may wait for threads of the parent
    threading.Thread(target=exit_with_parent, daemon=True).start()
    torch.set_num_threads(1)  # the number of threads may change the last bits of a result
    threadpool_limits(1)


def _call(job: Any) -> Any:
    assert _work is not None
    return _work(job)


def exit_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait_for_end([parent.sentinel])
    os._exit(1)
