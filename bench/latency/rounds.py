"""Raw times on disk, by round: one JSON file, replaced as a whole after every round.

In a round every unfinished cell is timed once, together with vanilla. Times are compared only within a round,
so that other load on the machine affects both alike.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.evaluation.protocol import Facts, apart_from_code, differences, same_code
from bench.latency.request import LatencyCell, RequestTiming
from compress.documents import Document, Positive, read
from compress.files import replacing

FILE, FORMAT = "rounds.json", 1


class Rounds:
    """All timings of one folder; without a folder (None) they are kept in memory only."""

    def __init__(self, folder: Path | None, facts: Facts, methods: Mapping[str, Facts]):
        """Read the folder; ValueError if it was timed under other conditions, or cannot be read.

        The error names every difference.
        """
        self.path = folder / FILE if folder else None
        self.facts, self.methods = dict(facts), {name: dict(told) for name, told in methods.items()}
        self.rounds: list[dict[LatencyCell, RequestTiming]] = []
        if not self.path or not self.path.exists():
            return
        there = read_rounds(self.path)
        pairs = {"": (there.facts, self.facts)}
        pairs |= {f"{name}: ": (told, self.methods.get(name, {})) for name, told in there.methods.items()}
        other = [
            f"{mark}{one}"
            for mark, (theirs, ours) in pairs.items()
            for one in differences(apart_from_code(theirs), apart_from_code(ours))
        ]
        if other:
            raise ValueError(
                f"{folder} was timed under other conditions: {'; '.join(other)}. "
                f"Choose these, or another folder"
            )
        if not all(same_code(theirs, ours) for theirs, ours in pairs.values()):
            raise ValueError(
                f"{folder} was timed by other code than this version's, which may take another time: choose "
                f"another folder, or go on with the version that began it"
            )
        self.methods = there.methods | self.methods
        self.rounds = [{LatencyCell(*one.cell): one.shot for one in each} for each in there.rounds]

    def shots(self, cell: LatencyCell) -> dict[int, RequestTiming]:
        """The timings of a cell by round."""
        return {number: shots[cell] for number, shots in enumerate(self.rounds) if cell in shots}

    def add(self, shots: Mapping[LatencyCell, RequestTiming]) -> None:
        """Add a round and write it to disk at once."""
        self.rounds.append(dict(shots))
        if self.path:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(self.path) as part:
                part.write_text(json.dumps(self.content()))

    def content(self) -> dict[str, Any]:
        """All rounds and facts, ready for JSON."""
        return {
            "format": FORMAT,
            "facts": self.facts,
            "methods": self.methods,
            "rounds": [
                [{"cell": list(cell), "shot": asdict(shot)} for cell, shot in each.items()]
                for each in self.rounds
            ],
        }


class _TimingDocument(Document):
    """One request: its cell and its times."""

    cell: tuple[str, Positive, str]
    shot: RequestTiming


class _RoundsDocument(Document):
    """The content of FILE."""

    format: int
    facts: dict[str, Any]
    methods: dict[str, dict[str, Any]]
    rounds: tuple[tuple[_TimingDocument, ...], ...]


def read_rounds(path: Path) -> _RoundsDocument:
    """Read the file of `Rounds`; ValueError for another file."""
    try:
        there = read(_RoundsDocument, path)
        if there.format != FORMAT:
            raise ValueError(f"{path}: format {there.format}, but this version reads format {FORMAT}")
    except ValueError as problem:
        raise ValueError(f"{problem}; delete it to time all again") from problem
    return there
