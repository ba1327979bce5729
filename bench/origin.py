"""How a comparison came about: kept beside it as run.json, and told by its reports."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Self

from bench.stats import MARGIN
from compress.files import replacing

FILE = "run.json"


@dataclass(frozen=True)
class Origin:
    """Title, environment and settings in words, commands, and more plots: captions with PNG files.

    `reference` and `difficulty` name the methods that played these parts; `margin` is that of equivalence.
    """

    title: str
    facts: dict[str, str]
    commands: Sequence[str] = ()
    plots: Mapping[str, str] = field(default_factory=dict)
    reference: str | None = None
    difficulty: str | None = None
    margin: float = MARGIN

    def save(self, folder: Path) -> Self:
        """Write it to a folder, after the commands that filled the folder before; returns it with these.

        Plots are named from there, so that the folder can be moved with what lies below it.
        """
        before = Origin.read(folder).commands
        plots = {name: _from(folder, Path(path)) for name, path in self.plots.items()}
        kept = replace(self, commands=list(dict.fromkeys([*before, *self.commands])), plots=plots)
        with replacing(folder / FILE) as part:
            part.write_text(json.dumps(asdict(kept), indent=1) + "\n")
        return replace(kept, plots=self.plots)

    @classmethod
    def read(cls, folder: Path) -> Self:
        """What a comparison's folder says, little if it is not finished; ValueError for another file."""
        path = folder / FILE
        try:
            told = json.loads(path.read_text())
            plots = {name: str(folder / file) for name, file in told["plots"].items()}
            return cls(**told | {"plots": plots})
        except FileNotFoundError:
            return cls(folder.name, {})
        except (ValueError, KeyError, TypeError, AttributeError) as problem:
            raise ValueError(f"{path}: not what evocomp compare --out writes; compare again") from problem


def joined(origins: Sequence[Origin], title: str = "") -> Origin:
    """One origin of several: reference, difficulty and margin of the first; facts that differ are listed."""
    facts: dict[str, str] = {}
    for name in dict.fromkeys(name for one in origins for name in one.facts):
        told = dict.fromkeys(one.facts[name] for one in origins if name in one.facts)
        facts[name] = "; ".join(told)
    return Origin(
        title or "; ".join(dict.fromkeys(one.title for one in origins)),
        facts,
        list(dict.fromkeys(command for one in origins for command in one.commands)),
        {name: path for one in reversed(origins) for name, path in one.plots.items()},
        origins[0].reference,
        origins[0].difficulty,
        origins[0].margin,
    )


def _from(folder: Path, path: Path) -> str:
    """The path as seen from the folder, if it lies below it."""
    there = path.resolve()
    return str(there.relative_to(folder.resolve()) if there.is_relative_to(folder.resolve()) else there)
