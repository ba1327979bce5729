"""The protocol of an engine: it starts workers, assigns jobs to them as they become free, and returns exactly
one result or failure per job.
"""

from __future__ import annotations

import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

import torch

from evosearch.registry import cut

ATTEMPTS = 3  # failures after which a job is given up
LONGEST = 1000  # characters of a reason


class Work(Protocol):
    """A worker's function. Its result depends on the job alone, not on worker, order or attempt."""

    forks: bool  # whether forked processes may share it
    machine: str  # hardware and libraries, for the record

    @property
    def about(self) -> Mapping[str, Any]:
        """Settings and model, which must be equal for all workers."""

    def __call__(self, job: Any, /) -> Any:
        """Return the result; an exception is a failure of this job."""


@dataclass(frozen=True)
class Failure:
    """The reasons why each attempt at a job failed."""

    reasons: tuple[str, ...]


class WorkerPool(Protocol):
    """Workers that are ready."""

    @property
    def about(self) -> Mapping[str, Any]:
        """The workers' common `Work.about`."""

    @property
    def machines(self) -> tuple[str, ...]:
        """The `Work.machine` of all workers so far, for the record."""

    def each(self, jobs: Iterable[Any]) -> Generator[tuple[Any, Any | Failure], None, None]:
        """Yield pairs of job and result, or failure; jobs are taken only as workers become free."""


class Engine(Protocol):
    """A factory of worker pools.

    `make` is called once per worker, or once in the process that workers are forked from. An engine with one
    device per worker passes it, as in `make(device="cuda:1")`.
    """

    name: ClassVar[str]

    @property
    def elsewhere(self) -> bool:
        """Whether `make` is sent to processes that share no memory with this one."""

    def open(self, make: Callable[..., Work], workers: int) -> AbstractContextManager[WorkerPool]:
        """Start workers, which stop at the end of the block; ValueError or OSError if none can start."""


def told(problem: BaseException) -> str:
    """Return an exception as text: the message of a ValueError, else type, message and location."""
    text = cut(problem, LONGEST)
    if isinstance(problem, ValueError) and text:
        return text
    frames = traceback.extract_tb(problem.__traceback__)
    place = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    return f"{type(problem).__name__}: {text}{place}"


def machine_of(device: torch.device) -> str:
    """Return the name of a device and the versions of the libraries, for the record."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return f"{name}, torch {torch.__version__}, transformers {version('transformers')}"


# For engines whose workers are other processes --------------------------------------------------------------


@dataclass(frozen=True)
class JobError:
    """A failed attempt. After any exception but a ValueError its process is no longer trusted, since a CUDA
    error, for example, makes all later calls fail.
    """

    reason: str
    worker_is_sound: bool


def attempt(work: Work, job: Any) -> Any | JobError:
    """Return the result of a job, or a `JobError`."""
    try:
        return work(job)
    except Exception as problem:  # any exception is this job's failure and is stored with it
        return JobError(told(problem), isinstance(problem, ValueError))


@dataclass(eq=False)
class PendingJob:
    """A job that is running or waits for a retry."""

    job: Any
    reasons: list[str] = field(default_factory=list)
    places: set[str] = field(default_factory=set)  # nodes or devices on which it failed

    def failed(self, error: JobError, place: str) -> Failure | None:
        """Record a failed attempt; return the job's failure if it was the last attempt."""
        self.reasons.append(error.reason)
        self.places.add(place)
        return Failure(tuple(self.reasons)) if len(self.reasons) >= ATTEMPTS else None


Pending = TypeVar("Pending", bound=PendingJob)


def retry_for(retries: deque[Pending], place: str, places: set[str]) -> Pending | None:
    """Remove and return the first job that has not failed on `place`, or has failed on all `places`."""
    for pending in retries:
        if place not in pending.places or pending.places >= places:
            retries.remove(pending)
            return pending
    return None


def check_agreement(first: Mapping[str, Any], about: Mapping[str, Any]) -> None:
    """Raise ValueError if a worker's `about` differs from the first worker's."""
    if differing := [key for key in about if about[key] != first.get(key)]:
        listed = "; ".join(f"{key} is {about[key]!r}, not {first.get(key)!r}" for key in differing)
        raise ValueError(f"a worker differs from the first: {listed}")
