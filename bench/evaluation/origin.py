"""The origin of a comparison: stored next to it as run.json and times.json, and shown in its reports."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from shutil import copyfile
from typing import Self

from bench.evaluation.history import CommandRun, Times, listed, put_json
from bench.evaluation.stats import MARGIN
from compress.documents import read, regular_file
from compress.files import replacing
from evosearch.registry import cut

FILE = "run.json"


@dataclass(frozen=True)
class Origin:
    """Title, settings and environment as text, commands, and additional plots (captions with PNG files).

    `reference` and `difficulty` name the methods in these roles; `margin` is the margin of equivalence.
    """

    title: str
    facts: dict[str, str]
    commands: Sequence[str] = ()
    plots: Mapping[str, str] = field(default_factory=dict)
    reference: str | None = None
    difficulty: str | None = None
    margin: float = MARGIN

    def save(self, folder: Path, seconds: Mapping[str, float] | None = None) -> Self:
        """Write the origin to the folder of commands that have just ended; return the origin as read back.

        Commands, date, environment and `seconds` (of parts, by name) go to times.json, the rest to run.json.
        Plots outside the folder are copied into it, so that the folder can be moved.
        """
        before = Origin.read(folder)
        times = Times.read(folder)
        older = [CommandRun(command) for command in before.commands if command not in times.commands]
        times.after(*older, *map(CommandRun.now, self.commands)).took(seconds or {}).save(folder)
        told = {
            "title": self.title,
            "facts": self.facts,
            "plots": {name: _from(folder, Path(path)) for name, path in self.plots.items()},
            "reference": self.reference,
            "difficulty": self.difficulty,
            "margin": self.margin,
        }
        put_json(folder / FILE, told)
        return type(self).read(folder)

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read a comparison's origin, almost empty if it is unfinished. ValueError for another file."""
        path = folder / FILE
        try:
            told = read(cls, path)
        except FileNotFoundError:
            return cls(folder.name, {})
        except ValueError as problem:
            raise ValueError(
                f"{problem}; it is not what evocomp compare --out writes; compare again"
            ) from problem
        for name, file in told.plots.items():
            place = (folder / file).resolve()
            if not place.is_relative_to(folder.resolve()):
                raise ValueError(f"{path}: plots.{cut(name)} is {cut(file)!r}, which is not below {folder}")
            if os.path.exists(place):  # also for a name that no file can have
                regular_file(place)
        times = Times.read(folder)
        return replace(
            told,
            facts={**told.facts, **times.environment},
            commands=list(dict.fromkeys([*told.commands, *times.commands])),
            plots={name: str(folder / file) for name, file in told.plots.items()},
        )


def joined(origins: Sequence[Origin], title: str = "") -> Origin:
    """Join several origins: reference, difficulty and margin of the first; differing facts are listed."""
    return Origin(
        title or "; ".join(dict.fromkeys(one.title for one in origins)),
        listed([one.facts for one in origins]),
        list(dict.fromkeys(command for one in origins for command in one.commands)),
        {name: path for one in reversed(origins) for name, path in one.plots.items()},
        origins[0].reference,
        origins[0].difficulty,
        origins[0].margin,
    )


def _from(folder: Path, path: Path) -> str:
    """The path relative to the folder; a file outside the folder is copied into it."""
    there, here = path.resolve(), folder.resolve()
    if there.is_relative_to(here):
        return there.relative_to(here).as_posix()
    digest = hashlib.sha256(str(there).encode()).hexdigest()[:8]
    copy = folder / "pictures" / f"{there.stem}-{digest}{there.suffix}"
    copy.parent.mkdir(exist_ok=True)
    with replacing(copy) as part:
        copyfile(there, part)
    return copy.relative_to(folder).as_posix()
