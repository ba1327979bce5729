"""Date, machine and duration of results: times.json, next to results that contain no times.

All other files of a folder depend on the result alone, so that they can be compared byte for byte.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from pydantic import NonNegativeFloat

from bench.evaluation.environment import environment
from compress.documents import Positive, StoredCount, read
from compress.files import replacing

FILE = "times.json"


@dataclass(frozen=True)
class CommandRun:
    """One command that ran to its end. `date`: its end in UTC; empty if unknown."""

    command: str
    date: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def now(cls, command: str) -> Self:
        return cls(command, now(), environment())


@dataclass(frozen=True)
class WorkRecord:
    """One call that worked on a step of a recipe: amount of work, resources and duration."""

    units: StoredCount
    forwards: NonNegativeFloat
    seconds: NonNegativeFloat
    workers: Positive
    model: str  # fingerprint
    device: str
    date: str
    environment: Mapping[str, str]


@dataclass(frozen=True)
class Times:
    """The commands that filled a folder, in order, and the seconds of its parts by name.

    The folder of a recipe's step lists the calls that worked on it instead of commands.
    """

    runs: Sequence[CommandRun] = ()
    seconds: Mapping[str, NonNegativeFloat] = field(default_factory=dict)
    work: Sequence[WorkRecord] = ()

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read the times of a folder, or empty ones; ValueError for a file that cannot be read."""
        try:
            return read(cls, folder / FILE)
        except FileNotFoundError:
            return cls()
        except ValueError as problem:
            raise ValueError(f"{problem}; delete it, no result is lost") from problem

    def after(self, *runs: CommandRun) -> Self:
        return replace(self, runs=[*self.runs, *runs])

    def took(self, seconds: Mapping[str, float]) -> Self:
        return replace(self, seconds={**self.seconds, **seconds})

    @property
    def commands(self) -> list[str]:
        """Each distinct command, in order."""
        return list(dict.fromkeys(one.command for one in self.runs))

    @property
    def environment(self) -> dict[str, str]:
        """Versions and machine; differing values of several runs are joined."""
        return listed([one.environment for one in self.runs])

    def save(self, folder: Path) -> None:
        put_json(folder / FILE, asdict(self))


def now() -> str:
    """The date and the time, in UTC."""
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")


def listed(facts: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """Merge several sets of facts; differing values are joined with semicolons."""
    names = dict.fromkeys(name for one in facts for name in one)
    return {name: "; ".join(dict.fromkeys(one[name] for one in facts if name in one)) for name in names}


def put_json(path: Path, content: Any) -> None:
    """Write a JSON file atomically."""
    with replacing(path) as part:
        part.write_text(json.dumps(content, indent=1) + "\n")
