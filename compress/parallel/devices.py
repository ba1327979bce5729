"""The engine for several devices of this machine: one process per device, which loads the model itself."""

from __future__ import annotations

import pickle
import signal
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, ClassVar

import torch

from compress.parallel.engine import (
    ATTEMPTS,
    Failure,
    JobError,
    PendingJob,
    Work,
    attempt,
    check_agreement,
    retry_for,
    told,
)
from compress.parallel.workers import new_processes, serve_parent


@dataclass(frozen=True)
class Devices:
    """Run jobs in new processes of this machine, one for each of `devices`, assigned as they become free.

    All devices have one type: "cuda:0" and "cuda:1", or "cpu" several times. `make` is called with the device
    of its worker. A job whose worker dies or fails is retried on another device if there is one, and a new
    worker is started. A program that uses this engine needs the guard `if __name__ == "__main__"`, since the
    new processes import it.
    """

    name: ClassVar[str] = "devices"
    elsewhere: ClassVar[bool] = True

    devices: tuple[str, ...]

    def __post_init__(self) -> None:
        try:
            kinds = {torch.device(one).type for one in self.devices}
        except RuntimeError as problem:
            raise ValueError(
                f"devices={','.join(self.devices)}: write names as cuda:0,cuda:1 or cpu,cpu ({problem})"
            ) from problem
        if len(kinds) != 1:
            raise ValueError(
                f"devices={','.join(self.devices)}: name one device or more, all of one kind, for instance "
                f"cuda:0,cuda:1"
            )

    @contextmanager
    def open(self, make: Callable[..., Work], workers: int) -> Iterator[DevicePool]:
        if workers not in (1, len(self.devices)):
            raise ValueError(
                f"workers={workers}: there is one for each of the {len(self.devices)} devices; leave it out"
            )
        pool = DevicePool(_pickled(make))
        try:
            pool.start(self.devices)
            yield pool
        finally:
            pool.stop()


@dataclass(eq=False)
class _DeviceWorker:
    """The driver's record of a worker."""

    device: str
    process: BaseProcess
    pipe: Connection
    ready: bool = False
    pending: PendingJob | None = None

    def end(self) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()


class DevicePool:
    """One process per device, with one job at a time, so that a crash can be attributed to its job."""

    def __init__(self, make: bytes):
        self._make = make
        self._workers: list[_DeviceWorker] = []
        self._retries: deque[PendingJob] = deque()
        self._refused: Counter[str] = Counter()  # consecutive failed starts, by device
        self._machines: set[str] = set()
        self._about: Any = None

    @property
    def about(self) -> Any:
        return self._about

    @property
    def machines(self) -> tuple[str, ...]:
        return tuple(sorted(self._machines))

    def start(self, devices: Iterable[str]) -> None:
        """Start a worker on each device; ValueError or OSError if one of them cannot work."""
        for device in devices:
            self._spawn(device)
        while not all(one.ready for one in self._workers):
            for worker in self._heard_of():
                if reason := self._welcome(worker):
                    raise OSError(f"no worker could start on {worker.device}: {reason}")

    def stop(self) -> None:
        for worker in self._workers:
            worker.end()
        self._workers.clear()

    def each(self, jobs: Iterable[Any]) -> Generator[tuple[Any, Any | Failure], None, None]:
        new = (PendingJob(job) for job in jobs)
        done: list[tuple[Any, Any | Failure]] = []
        while True:
            exhausted = self._hand_out(new)
            while done:  # after handing out, so that workers need not wait while the caller uses the results
                yield done.pop(0)
            if exhausted and not self._retries and not any(one.pending for one in self._workers):
                return
            for worker in self._heard_of():
                if worker.ready:
                    done += self._collect(worker)
                elif reason := self._welcome(worker):
                    while done:  # first, since _start_again raises if no worker is left
                        yield done.pop(0)
                    self._start_again(worker, reason)

    def _hand_out(self, new: Iterator[PendingJob]) -> bool:
        """Assign a job to every idle worker; return whether there are no more jobs."""
        exhausted = False
        for worker in [one for one in self._workers if one.ready and not one.pending]:
            devices = {one.device for one in self._workers}
            pending = retry_for(self._retries, worker.device, devices) or next(new, None)
            if pending is None:
                exhausted = True
                continue
            try:
                worker.pipe.send(pending.job)
            except OSError:  # the worker died while idle, so the job is not at fault
                self._retries.append(pending)
                self._replace(worker)
            else:
                worker.pending = pending
        return exhausted

    def _heard_of(self) -> list[_DeviceWorker]:
        """Wait for workers that have sent a message or have ended, and return them."""
        listened = {one.pipe: one for one in self._workers if one.pending or not one.ready}
        return [listened[pipe] for pipe in wait(list(listened))]  # type: ignore[index]

    def _collect(self, worker: _DeviceWorker) -> Iterator[tuple[Any, Any | Failure]]:
        """Yield a finished job with its result or failure; queue it again if it may be retried."""
        pending, worker.pending = worker.pending, None
        assert pending
        outcome = _said_by(worker)
        if not isinstance(outcome, JobError):
            yield pending.job, outcome
            return
        failure = pending.failed(outcome, worker.device)
        if not outcome.worker_is_sound:
            self._replace(worker)
        if failure:
            yield pending.job, failure
        else:
            self._retries.append(pending)

    # Starting and replacing workers -------------------------------------------------------------------------

    def _spawn(self, device: str) -> None:
        context = new_processes()
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, device), daemon=True)
        with _without_interrupts():
            process.start()
        theirs.close()
        self._workers.append(_DeviceWorker(device, process, ours))

    def _welcome(self, worker: _DeviceWorker) -> str:
        """Handle a message of a starting worker; return the reason for a failed start, or an empty string."""
        said = _said_by(worker)
        if isinstance(said, _Hello):  # an earlier send would block during the imports
            try:
                worker.pipe.send_bytes(self._make)
            except OSError:
                return _end_of(worker)
            return ""
        if isinstance(said, JobError):
            return said.reason
        about, machine = said
        self._about = self._about or about
        try:
            check_agreement(self._about, about)
        except ValueError as problem:
            return str(problem)
        worker.ready = True
        self._refused[worker.device] = 0
        self._machines.add(machine)
        return ""

    def _start_again(self, worker: _DeviceWorker, reason: str) -> None:
        """Replace a worker that failed to start; give up its device after `ATTEMPTS` failures in a row."""
        self._refused[worker.device] += 1
        if self._refused[worker.device] < ATTEMPTS:
            self._replace(worker)
            return
        worker.end()
        self._workers.remove(worker)
        if not self._workers:
            raise OSError(f"no worker is left ({reason}); finished work is kept: run again")

    def _replace(self, worker: _DeviceWorker) -> None:
        worker.end()
        self._workers.remove(worker)
        self._spawn(worker.device)


class _Hello:
    """The first message of a worker: it has started and waits for its work."""


def _said_by(worker: _DeviceWorker) -> Any | JobError:
    try:
        return worker.pipe.recv()
    except (EOFError, OSError):
        return JobError(_end_of(worker), worker_is_sound=False)


def _end_of(worker: _DeviceWorker) -> str:
    worker.process.join()
    if (status := worker.process.exitcode or 0) < 0:
        return "its worker was killed, perhaps for lack of memory"
    return f"its worker ended with status {status}"


def _pickled(make: Callable[..., Work]) -> bytes:
    try:
        return pickle.dumps(make)
    except (pickle.PicklingError, AttributeError, TypeError) as problem:
        raise ValueError(
            f"the work cannot be sent to other processes ({problem}): define its classes and functions at "
            f"the top of a module that can be imported"
        ) from problem


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Block SIGINT inside, so that Ctrl-C cannot reach a new process before it ignores the signal."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve(pipe: Connection, device: str) -> None:
    """Run a worker until its driver ends."""
    serve_parent()
    with suppress(EOFError, ConnectionError):
        _answer(pipe, device)


def _answer(pipe: Connection, device: str) -> None:
    """Create the work on the device, then run job after job."""
    pipe.send(_Hello())
    try:
        work: Work = pickle.loads(pipe.recv_bytes())(device=device)
        pipe.send((work.about, work.machine))
    except Exception as problem:  # reported by the driver
        pipe.send(JobError(told(problem), worker_is_sound=False))
        return
    while True:
        job = pipe.recv()
        outcome = attempt(work, job)
        try:
            pipe.send(outcome)
        except (pickle.PicklingError, AttributeError, TypeError) as problem:
            pipe.send(JobError(told(problem), worker_is_sound=True))
