"""Merges stores: the same labels give the same bytes, whatever runs and shards they come from."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from compress.files import new_folder
from compress.labels.store import (
    LabelStore,
    pieces,
    read_labels,
    read_quarantine,
    read_shard,
    refuse_difference,
    scan,
    write_quarantine,
    write_shard,
)


def merge(folders: Sequence[str | os.PathLike[str]], out: str | os.PathLike[str]) -> LabelStore:
    """Write the labels of all `folders`, which may be shards of one campaign, to `out`, sorted by id.

    Equal labels of a sample are merged. ValueError if the stores' settings differ, if two labels of a sample
    differ, or if `out` exists. `out` appears only when it is complete.
    """
    target = Path(out)
    if target.exists():
        raise ValueError(f"{target} exists: choose a new folder")
    tables: list[pa.Table] = []
    quarantine: dict[str, list[str]] = {}
    settings: Mapping[str, Any] | None = None
    for folder in map(Path, folders):
        shards, theirs = scan(folder)
        if theirs is None:
            raise ValueError(f"{folder}: no labels here (no .parquet file)")
        refuse_difference(folder, theirs, settings if settings is not None else theirs)
        settings = theirs
        tables += map(read_shard, shards)
        quarantine |= read_quarantine(folder, theirs)
    assert settings is not None
    merged = _unique(pa.concat_tables(tables).combine_chunks())
    labelled = set(merged["id"].to_pylist()) if quarantine else set()
    with new_folder(target) as part:
        for number, piece in enumerate(pieces(merged, settings)):
            write_shard(piece, part / f"labels-{number:05d}.parquet")
        if left := {id: quarantine[id] for id in sorted(quarantine) if id not in labelled}:
            write_quarantine(part / "quarantine-labels.json", settings, left)
    return read_labels(target)


def _unique(table: pa.Table) -> pa.Table:
    """Sort by id and keep one row for each; rows that differ only in seconds count as equal."""
    table = table.take(pc.sort_indices(table, [("id", "ascending")]))
    ids = table["id"].combine_chunks()
    again = np.flatnonzero(pc.equal(ids[1:], ids[:-1]).to_numpy(zero_copy_only=False)) + 1
    for place in again.tolist():
        one, other = (_told(table, row) for row in (place - 1, place))
        if one != other:
            names = ", ".join(name for name in one if one[name] != other[name])
            raise ValueError(
                f"sample {one['id']!r} has two labels that differ in {names}: they are of different data"
            )
    first = np.ones(len(table), bool)
    first[again] = False
    return table.filter(pa.array(first))


def _told(table: pa.Table, row: int) -> dict[str, Any]:
    found: dict[str, Any] = table.slice(row, 1).drop_columns(["seconds"]).to_pylist()[0]
    return found
