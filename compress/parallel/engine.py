"""What an engine is: it makes workers, hands them jobs as they come, and gives back a result or a failure for
each of them, exactly once.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

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
    """A way to get workers. `make` is called once per worker, or process that they are forked from."""

    name: ClassVar[str]
    elsewhere: ClassVar[bool]  # whether `make` goes to processes that share nothing with this one

    def open(self, make: Callable[[], Work], workers: int) -> AbstractContextManager[WorkerPool]:
        """`workers` of them, gone at the end of the block; ValueError or OSError if there can be none."""


def told(problem: BaseException) -> str:
    """An exception as a reason: its own words if it is about the job, else with its type and place."""
    text = cut(problem, LONGEST)
    if isinstance(problem, ValueError) and text:
        return text
    frames = traceback.extract_tb(problem.__traceback__)
    place = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    return f"{type(problem).__name__}: {text}{place}"
