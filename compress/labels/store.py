"""The label store: a folder of Parquet shards, each written at once, each carrying the complete
configuration.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from compress.files import replacing

FORMAT = 1
KEY = b"evocomp labels"
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("kept", pa.list_(pa.int32())),
        ("loss_before", pa.float64()),
        ("loss_after", pa.float64()),
        ("loss_full", pa.float64()),
        ("evaluations", pa.int32()),
        ("seed", pa.int64()),
        ("seconds", pa.float64()),
        ("score", pa.list_(pa.float32())),
    ]
)


@dataclass(frozen=True)
class Label:
    """The label of one sample. Losses are in nats per response token.

    `loss_before` is what a random candidate costs (the mean of the search's first batch), `loss_after` what
    the kept tokens cost, `loss_full` what all visual tokens cost.
    """

    id: str
    kept: tuple[int, ...]  # visual tokens, ascending
    loss_before: float
    loss_after: float
    loss_full: float
    evaluations: int  # candidates whose loss was computed
    seed: int
    seconds: float
    score: tuple[float, ...] | None = None  # [N] higher = more worth keeping


@dataclass(frozen=True, eq=False)
class LabelStore:
    """The labels in a folder, in the order in which they were made, and the configuration that made them."""

    folder: Path
    settings: Mapping[str, Any]
    labels: tuple[Label, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def __iter__(self) -> Iterator[Label]:
        return iter(self.labels)

    def __contains__(self, id: str) -> bool:
        return id in self._by_id

    def __getitem__(self, id: str) -> Label:
        return self._by_id[id]

    def table(self) -> pa.Table:
        """All labels as one Arrow table, for analysis."""
        return _table(self.labels, self.settings)

    @cached_property
    def _by_id(self) -> dict[str, Label]:
        return {one.id: one for one in self.labels}


def read_labels(folder: str | os.PathLike[str]) -> LabelStore:
    """The store in `folder`. ValueError if there is none, a shard is unreadable, or shards disagree."""
    path = Path(folder)
    shards = sorted(path.glob("*.parquet"))
    if not shards:
        raise ValueError(f"{folder}: no labels here (no .parquet file); give a folder that labelling wrote")
    labels: list[Label] = []
    settings: Mapping[str, Any] | None = None
    for shard in shards:
        theirs, rows = _read(shard)
        refuse_difference(shard, theirs, settings if settings is not None else theirs)
        settings = theirs
        labels += rows
    assert settings is not None
    return LabelStore(path, settings, tuple(labels))


def refuse_difference(origin: Path, theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> None:
    """ValueError that names every setting in which what lies at `origin` differs from `ours`."""
    keys = [key for key in dict.fromkeys([*ours, *theirs]) if theirs.get(key) != ours.get(key)]
    if keys:
        listed = "; ".join(f"{key} is {theirs.get(key)!r} there and {ours.get(key)!r} here" for key in keys)
        raise ValueError(f"{origin} was made with other settings: {listed}. Choose these, or another folder")


class Writer:
    """Appends shards to a folder; whatever interrupts it, a shard is there completely or not at all."""

    def __init__(self, folder: str | os.PathLike[str], settings: Mapping[str, Any]):
        """Open or create `folder`; ValueError, naming the difference, if it holds other settings' labels."""
        self._folder, self._settings = Path(folder), dict(settings)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as problem:
            raise self._refused(problem) from problem
        self.present: set[str] = set()
        if any(self._folder.glob("*.parquet")):
            store = read_labels(self._folder)
            refuse_difference(self._folder, store.settings, self._settings)
            self.present.update(one.id for one in store)
        self._next = 1 + max((_number(shard) for shard in self._folder.glob("*.parquet")), default=-1)

    def write(self, labels: Iterable[Label]) -> None:
        """Add a shard, unless there are no labels; OSError, and no trace of it, if it cannot be written."""
        rows = list(labels)
        if not rows:
            return
        try:
            with (
                replacing(self._folder / f"labels-{self._next:05d}.parquet") as part,
                part.open("wb") as file,
            ):
                pq.write_table(_table(rows, self._settings), file)
        except OSError as problem:
            raise self._refused(problem) from problem
        self._next += 1
        self.present.update(row.id for row in rows)

    def _refused(self, problem: OSError) -> OSError:
        why = problem.strerror or str(problem)
        return OSError(f"cannot write labels to {self._folder}: {why}; what was written before is safe")


def _table(rows: Iterable[Label], settings: Mapping[str, Any]) -> pa.Table:
    described = json.dumps({"format": FORMAT, "settings": dict(settings)})
    return pa.Table.from_pylist([asdict(row) for row in rows], SCHEMA.with_metadata({KEY: described}))


def _read(shard: Path) -> tuple[dict[str, Any], list[Label]]:
    try:
        table = pq.read_table(shard, partitioning=None)
    except (OSError, pa.ArrowException) as problem:
        why = str(problem).partition("\n")[0]
        raise ValueError(f"{shard}: unreadable ({why}); delete it to label its samples again") from problem
    metadata = table.schema.metadata or {}
    if KEY not in metadata or not table.schema.equals(SCHEMA):
        raise ValueError(f"{shard}: not a label shard; labels need a folder of their own")
    described = json.loads(metadata[KEY])
    if described["format"] != FORMAT:
        raise ValueError(f"{shard}: format {described['format']}, but this version reads format {FORMAT}")
    rows = []
    for row in table.to_pylist():
        row = {field.name: row[field.name] for field in fields(Label)}
        row["kept"] = tuple(row["kept"])
        row["score"] = None if row["score"] is None else tuple(row["score"])
        rows.append(Label(**row))
    return described["settings"], rows


def _number(shard: Path) -> int:
    digits = shard.stem.rpartition("-")[2]
    return int(digits) if digits.isdigit() else -1
