"""What an engine is: it makes workers, hands them jobs as they come, and gives back a result or a failure for
each of them, exactly once.
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

ATTEMPTS = 3  # a job that fails so often is given up
LONGEST = 1000  # characters of a reason


class Work(Protocol):
    """What a worker does with a job; its result depends on the job alone, not on worker, order or attempt."""

    forks: bool  # whether copies of this process may share it
    machine: str  # what computes here, for the record

    @property
    def about(self) -> Mapping[str, Any]:
        """What must be equal for all workers: settings and model."""

    def __call__(self, job: Any, /) -> Any:
        """The result; what it raises is a failure of this job."""


@dataclass(frozen=True)
class Failure:
    """A job without a result, and why each attempt failed."""

    reasons: tuple[str, ...]


class WorkerPool(Protocol):
    """Workers that are ready."""

    @property
    def about(self) -> Mapping[str, Any]:
        """What its workers say of themselves."""

    @property
    def machines(self) -> tuple[str, ...]:
        """What has computed so far, for the record."""

    def each(self, jobs: Iterable[Any]) -> Generator[tuple[Any, Any | Failure], None, None]:
        """Pairs of job and result, or failure; jobs are taken only as workers become free."""


class Engine(Protocol):
    """A way to get workers. `make` is called once per worker, or process that they are forked from.

    An engine that has a device for each worker calls it with that, as `make(device="cuda:1")`.
    """

    name: ClassVar[str]

    @property
    def elsewhere(self) -> bool:
        """Whether `make` goes to processes that share nothing with this one."""

    def open(self, make: Callable[..., Work], workers: int) -> AbstractContextManager[WorkerPool]:
        """`workers` of them, gone at the end of the block; ValueError or OSError if there can be none."""


def told(problem: BaseException) -> str:
    """An exception as a reason: its own words if it is about the job, else with its type and place."""
    text = cut(problem, LONGEST)
    if isinstance(problem, ValueError) and text:
        return text
    frames = traceback.extract_tb(problem.__traceback__)
    place = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    return f"{type(problem).__name__}: {text}{place}"


def machine_of(device: torch.device) -> str:
    """What computes on a device, for the record: its name, and the libraries."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return f"{name}, torch {torch.__version__}, transformers {version('transformers')}"


# For engines whose workers are elsewhere --------------------------------------------------------------------


@dataclass(frozen=True)
class JobError:
    """An attempt that failed. After anything but a ValueError its process is not trusted any more: a CUDA
    error, for instance, spoils all that follows.
    """

    reason: str
    worker_is_sound: bool


def attempt(work: Work, job: Any) -> Any | JobError:
    """The result of a job, or why there is none."""
    try:
        return work(job)
    except Exception as problem:  # whatever it is, it is this job's, and is stored with it
        return JobError(told(problem), isinstance(problem, ValueError))


@dataclass(eq=False)
class PendingJob:
    """A job that is under way or waits for another try."""

    job: Any
    reasons: list[str] = field(default_factory=list)
    places: set[str] = field(default_factory=set)  # where it failed

    def failed(self, error: JobError, place: str) -> Failure | None:
        """Note an attempt that failed; a failure of the job if it was the last."""
        self.reasons.append(error.reason)
        self.places.add(place)
        return Failure(tuple(self.reasons)) if len(self.reasons) >= ATTEMPTS else None


Pending = TypeVar("Pending", bound=PendingJob)


def retry_for(retries: deque[Pending], place: str, places: set[str]) -> Pending | None:
    """Take the first job that may be tried again here: it has not failed here, or has on all `places`."""
    for pending in retries:
        if place not in pending.places or pending.places >= places:
            retries.remove(pending)
            return pending
    return None


def check_agreement(first: Mapping[str, Any], about: Mapping[str, Any]) -> None:
    """ValueError if a worker says something else of itself than the first."""
    if differing := [key for key in about if about[key] != first.get(key)]:
        listed = "; ".join(f"{key} is {about[key]!r}, not {first.get(key)!r}" for key in differing)
        raise ValueError(f"a worker differs from the first: {listed}")
