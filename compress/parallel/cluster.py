"""The engine for a Ray cluster: one actor per worker; the driver decides about all retries."""

from __future__ import annotations

import os
import socket
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, ClassVar

import torch
from threadpoolctl import threadpool_limits

from compress.parallel.engine import (
    ATTEMPTS,
    LONGEST,
    Failure,
    JobError,
    PendingJob,
    Work,
    attempt,
    check_agreement,
    retry_for,
    told,
)

DEPTH = 2  # jobs queued per worker, so that the next one can start as soon as the first is done
POLL = 5.0  # seconds
STORE = 200 * 2**20  # bytes of the object store of a cluster started here; jobs and results are small


@dataclass(frozen=True)
class Cluster:
    """Run jobs on a Ray cluster, assigned as workers become free.

    `address` is "auto" or "host:port". Without one, a cluster of this machine alone is started, and stopped
    at the end. A worker takes one CPU and `gpus` devices (a fraction of one, if below 1). The pool holds as
    many workers as the cluster has resources for, up to the requested number; more start when nodes join. A
    job whose worker dies or fails is retried on another node if there is one, and a new worker is started.
    `patience` is the longest time without any worker, in seconds.

    The package and its models must have the same names on all nodes.
    """

    name: ClassVar[str] = "ray"
    elsewhere: ClassVar[bool] = True

    address: str | None = None
    gpus: float = 0.0
    patience: float = 600.0

    @contextmanager
    def open(self, make: Callable[..., Work], workers: int) -> Iterator[ClusterPool]:
        if workers < 1:
            raise ValueError(f"workers={workers}: choose 1 or more")
        ray = _ray()
        with ExitStack() as held:
            if not ray.is_initialized():
                self._connect(ray, workers)
                held.callback(ray.shutdown)
            crew = ClusterPool(ray, make, self)
            held.callback(crew.stop)
            crew.start(workers)
            yield crew

    def _connect(self, ray: Any, workers: int) -> None:
        quiet = {"log_to_driver": False, "logging_level": "ERROR"}
        try:
            if self.address is not None:
                host, _, port = self.address.rpartition(":")
                if host and port.isdecimal():  # fail fast: Ray itself retries for minutes
                    socket.create_connection((host, int(port)), timeout=10).close()
                ray.init(address=self.address, **quiet)
                return
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            own = {"num_cpus": workers, "include_dashboard": False, "object_store_memory": STORE}
            ray.init(address="local", **own, **quiet)
        except Exception as problem:  # a node that starts too slowly raises a plain Exception
            ray.shutdown()
            why = str(problem).strip().partition("\n")[0]
            if self.address is None:
                raise OSError(f"cannot start a Ray cluster on this machine ({why})") from problem
            raise OSError(
                f"cannot reach a Ray cluster at {self.address} ({why}); "
                f"start one with `ray start --head`, or leave out the address"
            ) from problem


@dataclass(eq=False)
class _PendingJob(PendingJob):
    again: bool = False  # a retry runs alone on its worker, so that a crash can be attributed to it


@dataclass(eq=False)
class _ClusterWorker:
    """The driver's record of a worker, with its tasks in order of execution."""

    actor: Any
    node: str
    tasks: deque[tuple[Any, _PendingJob]] = field(default_factory=deque)


class ClusterPool:
    """Actors that are ready, and actors that wait for resources of the cluster."""

    def __init__(self, ray: Any, make: Callable[..., Work], engine: Cluster):
        self._ray, self._engine = ray, engine
        self._make = ray.put(make)  # pickled once
        # The driver does all retries: Ray's own would loop forever on a job that kills its worker.
        options = {"num_cpus": 1, "num_gpus": engine.gpus, "max_restarts": 0, "max_task_retries": 0}
        self._actor = ray.remote(**options)(_Worker)
        self._starting: dict[Any, Any] = {}  # reference -> actor
        self._hands: list[_ClusterWorker] = []
        self._retries: deque[_PendingJob] = deque()
        self._refused = 0  # consecutive failed starts
        self._machines: dict[str, None] = {}
        self._about: Any = None

    @property
    def about(self) -> Any:
        return self._about

    @property
    def machines(self) -> tuple[str, ...]:
        return tuple(sorted(self._machines))

    def start(self, workers: int) -> None:
        """Ask for workers and wait for the first."""
        for _ in range(workers):
            self._spawn()
        while not self._hands:
            for reference in self._ready():
                self._welcome(reference)

    def stop(self) -> None:
        for actor in [*self._starting.values(), *(hand.actor for hand in self._hands)]:
            self._ray.kill(actor)

    def each(self, jobs: Iterable[Any]) -> Generator[tuple[Any, Any | Failure], None, None]:
        new = (_PendingJob(job) for job in jobs)
        while True:
            exhausted = self._hand_out(new)
            if exhausted and not self._retries and not any(hand.tasks for hand in self._hands):
                return
            for reference in self._ready():
                if reference in self._starting:
                    self._welcome(reference)
                else:
                    yield from self._collect(reference)

    # Assigning jobs -----------------------------------------------------------------------------------------

    def _hand_out(self, new: Iterator[_PendingJob]) -> bool:
        """Assign jobs to workers with room, idle ones first; return whether `new` is exhausted."""
        exhausted = False
        for depth in range(DEPTH):
            for hand in self._hands:
                if len(hand.tasks) > depth or any(task.again for _, task in hand.tasks):
                    continue
                retry = None if hand.tasks else self._retry_for(hand)
                if task := retry or next(new, None):
                    hand.tasks.append((hand.actor.run.remote(task.job), task))
                else:
                    exhausted = True
        return exhausted

    def _retry_for(self, hand: _ClusterWorker) -> _PendingJob | None:
        """Return a task to retry alone on this worker: it has not failed on its node, or has on all nodes."""
        return retry_for(self._retries, hand.node, {one.node for one in self._hands})

    # Collecting results -------------------------------------------------------------------------------------

    def _ready(self) -> list[Any]:
        """Wait for references that are ready; OSError after `patience` seconds without a worker."""
        heads = [hand.tasks[0][0] for hand in self._hands if hand.tasks]
        waited = 0.0
        while True:
            if not self._hands and not self._starting:
                raise OSError("no worker is left; finished work is kept: run again")
            found: list[Any]
            found, _ = self._ray.wait([*heads, *self._starting], num_returns=1, timeout=POLL)
            if found:
                return found
            waited = 0.0 if self._hands else waited + POLL
            if waited >= self._engine.patience:
                free = self._ray.available_resources()
                raise OSError(
                    f"the cluster had no place for a worker for {waited:.0f} s (one needs 1 CPU and "
                    f"{self._engine.gpus:g} GPUs; free: {free.get('CPU', 0):g} and {free.get('GPU', 0):g}); "
                    f"finished work is kept: run again"
                )

    def _collect(self, reference: Any) -> Iterator[tuple[Any, Any | Failure]]:
        hand = next(one for one in self._hands if one.tasks and one.tasks[0][0] == reference)
        _, task = hand.tasks.popleft()
        try:
            outcome = self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as problem:
            outcome = JobError(self._why(problem), worker_is_sound=False)
        except self._ray.exceptions.RayError as problem:
            if hand.tasks:  # the next task may have killed the worker before this result was sent
                self._retry(task)
                self._replace(hand)
                return
            outcome = JobError(self._why(problem), worker_is_sound=False)
        if not isinstance(outcome, JobError):
            yield task.job, outcome
            return
        failure = task.failed(outcome, hand.node)
        if not outcome.worker_is_sound:
            self._replace(hand)
        if failure:
            yield task.job, failure
        else:
            self._retry(task)

    def _retry(self, task: _PendingJob) -> None:
        task.again = True
        self._retries.append(task)

    def _why(self, problem: Exception) -> str:
        """Return the cause of an error: the exception of the work, or else the last line of Ray's message."""
        cause = getattr(problem, "cause", None) or problem
        if isinstance(cause, self._ray.exceptions.RayError):
            return f"its worker died: {str(cause).strip().splitlines()[-1][:LONGEST]}"
        return told(cause)

    # Starting and replacing workers -------------------------------------------------------------------------

    def _spawn(self) -> None:
        actor = self._actor.remote()
        self._starting[actor.start.remote(self._make)] = actor

    def _welcome(self, reference: Any) -> None:
        """Add a worker that has started to the pool, or replace one that failed to start."""
        actor = self._starting.pop(reference)
        try:
            about, machine, node = self._ray.get(reference)
            self._agree(about)
        except (self._ray.exceptions.RayError, ValueError) as problem:
            self._ray.kill(actor)
            self._refused += 1
            if self._refused < ATTEMPTS:
                self._spawn()
            elif not self._hands and not self._starting:
                raise OSError(f"no worker could start: {self._why(problem)}") from problem
            return
        self._refused = 0
        self._machines[machine] = None
        self._hands.append(_ClusterWorker(actor, node))

    def _agree(self, about: Any) -> None:
        if self._about is None:
            self._about = about
        check_agreement(self._about, about)

    def _replace(self, hand: _ClusterWorker) -> None:
        """Replace a worker and retry its queued tasks, without counting a failure for them."""
        self._hands.remove(hand)
        for _, task in hand.tasks:
            self._retry(task)
        self._ray.kill(hand.actor)
        self._spawn()


class _Worker:
    """The actor. `start` creates the work, not `__init__`, so that its errors reach the driver unchanged."""

    def start(self, make: Callable[..., Work]) -> tuple[Any, str, str]:
        torch.set_num_threads(1)  # the number of threads may change the last bits of a result
        threadpool_limits(1)
        self._work = make()
        node = _ray().get_runtime_context().get_node_id()
        return self._work.about, self._work.machine, node

    def run(self, job: Any) -> Any | JobError:
        return attempt(self._work, job)


def _ray() -> Any:
    try:
        return import_module("ray")
    except ModuleNotFoundError as problem:
        raise ValueError("the engine ray needs the library Ray: pip install 'evocomp[ray]'") from problem
