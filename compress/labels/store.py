"""The label store: a folder of Parquet shards, and the quarantined samples with the reasons.

Each shard is written atomically and contains the complete configuration.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import field_validator

from compress.documents import Document, Positive, StoredCount, parse, read, regular_file
from compress.files import locked, replacing
from compress.keep import read_keep
from evosearch.registry import cut

FORMAT = 1
KEY = b"evocomp labels"
BATCH = 256  # rows in memory at a time
ROWS = 1 << 16  # of a shard in a merged or exported store
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

    `loss_before` is the loss of a random candidate (the mean of the search's first batch), `loss_after` that
    of the kept tokens, and `loss_full` that of all visual tokens.
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


CODE = "code"  # the setting that holds a fingerprint of code; users cannot choose it


class _SettingsDocument(Document, extra="allow"):
    """The settings of labels; works other than the labeller may add their own."""

    kind: str = ""
    keep: Any = 1
    grouper: str = ""
    strategy: str | None = None
    visual_tokens: Positive = 1
    model: str = ""

    @field_validator("keep")
    @classmethod
    def _count_or_ratio(cls, keep: Any) -> Any:
        if isinstance(count := read_keep(keep), int) and count >= 2**31:
            raise ValueError("choose fewer than 2**31 tokens")
        return keep

    def model_dump(self, **how: Any) -> dict[str, Any]:
        return super().model_dump(**how | {"exclude_unset": True})


class _RunDocument(Document):
    engine: str = "unknown"
    workers: StoredCount = 0
    machines: tuple[str, ...] = ()
    started: datetime
    written: datetime
    total: StoredCount = 0


class _ShardDocument(Document):
    """The metadata of a shard."""

    format: int
    settings: _SettingsDocument
    run: _RunDocument | None = None


class _Quarantine(Document):
    settings: _SettingsDocument
    samples: dict[str, list[str]]


@dataclass(frozen=True)
class LabellingRun:
    """One call that added labels, as recorded in its shards."""

    name: str  # prefix of its shards, without their number
    engine: str
    workers: int
    machines: tuple[str, ...]
    started: datetime
    written: datetime  # time of its last shard
    samples: int  # number that it added
    total: int  # size of its part of the data, labelled before or not


@dataclass(frozen=True, eq=False)
class LabelStore:
    """The labels in a folder, in the order of its shards, and the configuration that made them.

    Labels are read on access, so that a store may be larger than the memory.
    """

    folder: Path
    settings: Mapping[str, Any]
    shards: tuple[Path, ...]
    ids: pa.ChunkedArray  # of all labels
    quarantine: Mapping[str, Sequence[str]]  # quarantined sample -> reasons of its failed attempts

    def __len__(self) -> int:
        return len(self.ids)

    def __iter__(self) -> Iterator[Label]:
        for shard in self.shards:
            yield from _labels(shard)

    def __contains__(self, id: str) -> bool:
        return id in self._by_id

    def __getitem__(self, id: str) -> Label:
        return self._by_id[id]

    def setting(self, name: str) -> Any:
        """A setting of the labels; ValueError if the store does not contain it."""
        if name not in self.settings:
            raise ValueError(f"{self.shards[0]}: settings.{name} is missing; label again")
        return self.settings[name]

    def refuse_other(self, model: str, fingerprint: str, visual_tokens: int) -> None:
        """ValueError for another model than that of the labels."""
        if (theirs := self.setting("model")) != fingerprint:
            tokens = self.settings.get("visual_tokens", "an unknown number of")
            raise ValueError(
                f"the labels in {self.folder} were made with another model than {model}: its fingerprint is "
                f"{theirs[:8]}, with {tokens} visual tokens, and {model} has {fingerprint[:8]} and "
                f"{visual_tokens}; give the model of the labels with --model"
            )

    @cached_property
    def labels(self) -> tuple[Label, ...]:
        """All labels, in memory."""
        return tuple(self)

    def table(self, columns: Sequence[str] | None = None) -> pa.Table:
        """All labels as one Arrow table, for analysis."""
        return pa.concat_tables(read_shard(shard, columns) for shard in self.shards)

    def runs(self) -> list[LabellingRun]:
        """The runs that wrote the store, in order; none for merged stores."""
        found: dict[tuple[str, datetime], LabellingRun] = {}
        for shard in self.shards:
            if told := described(shard).run:
                name, rows = shard.stem.rpartition("-")[0], pq.read_metadata(shard).num_rows
                before = found.get((name, told.started))
                found[name, told.started] = LabellingRun(
                    name, told.engine, told.workers, told.machines, told.started, told.written,
                    rows + (before.samples if before else 0), told.total,
                )  # fmt: skip
        return sorted(found.values(), key=lambda run: run.started)

    @cached_property
    def _by_id(self) -> dict[str, Label]:
        return {one.id: one for one in self.labels}


def read_labels(folder: str | os.PathLike[str]) -> LabelStore:
    """The store in `folder`.

    ValueError if there is none, a shard is unreadable, shards disagree, or a sample has two labels.
    """
    path = Path(folder)
    shards, settings = scan(path)
    if settings is None or not shards:
        raise ValueError(f"{folder}: no labels here (no .parquet file); give a folder that labelling wrote")
    ids = pa.chunked_array([chunk for shard in shards for chunk in read_shard(shard, ["id"])["id"].chunks])
    if again := repeated(ids):
        raise ValueError(
            f"{folder}: sample {again!r} has two labels; `evocomp labels merge {folder} --out NEW` "
            f"keeps one of each that are equal"
        )
    labelled = set(ids.to_pylist()) if (quarantine := read_quarantine(path, settings)) else set()
    left = {id: reasons for id, reasons in quarantine.items() if id not in labelled}
    return LabelStore(path, settings, tuple(shards), ids, left)


def scan(folder: Path) -> tuple[list[Path], Mapping[str, Any] | None]:
    """The shards in a folder and their common settings, if any; ValueError if they disagree."""
    shards = sorted(folder.glob("*.parquet"))
    settings: Mapping[str, Any] | None = None
    for shard in shards:
        theirs = described(shard).settings.model_dump()
        refuse_difference(shard, theirs, settings if settings is not None else theirs)
        settings = theirs
    return shards, settings


def refuse_difference(origin: Path, theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> None:
    """ValueError that names the settings of `origin` that differ from `ours`."""
    keys = [key for key in dict.fromkeys([*ours, *theirs]) if theirs.get(key) != ours.get(key)]
    if keys == [CODE]:
        raise ValueError(
            f"{origin} was made by other code than this version's, which may give other results: choose "
            f"another folder, or go on with the version that began it"
        )
    if keys:
        listed = "; ".join(
            f"{cut(key)} is {cut(repr(theirs.get(key)), 100)} there and {cut(repr(ours.get(key)), 100)} here"
            for key in keys[:5]
        ) + (f" (and {len(keys) - 5} more)" if len(keys) > 5 else "")
        raise ValueError(f"{origin} was made with other settings: {listed}. Choose these, or another folder")


def repeated(ids: pa.ChunkedArray | pa.Array) -> str | None:
    """An id that occurs more than once, if there is one."""
    if pc.count_distinct(ids).as_py() == len(ids):
        return None
    counts = pc.value_counts(ids)
    again: str = counts.filter(pc.greater(counts.field("counts"), 1))[0]["values"].as_py()
    return again


# Writing ----------------------------------------------------------------------------------------------------


class Writer:
    """Appends shards to a folder; a shard is written completely or not at all, even on interruption.

    Created by `writing`, which ensures that there is only one per folder and `name`.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], name: str):
        self._folder, self._settings, self._name = folder, dict(settings), name
        self.run: dict[str, Any] = {"started": now()}  # stored in every shard; does not affect the labels
        shards, theirs = scan(folder)
        if theirs is not None:
            refuse_difference(folder, theirs, self._settings)
        self._present = [read_shard(shard, ["id"])["id"] for shard in shards]
        self._given_up = read_quarantine(folder, self._settings)
        own = folder / f"quarantine-{name}.json"
        self._quarantine = _quarantined(own, self._settings) if own.exists() else {}
        self._next = 1 + max((_number(one) for one in folder.glob(f"{name}-*.parquet")), default=-1)
        self.empty = not shards

    def missing(self, keys: Iterable[str], *, again: bool = False) -> NDArray[np.int64]:
        """Places of the keys that are neither in the store nor, unless `again`, in quarantine.

        ValueError for a key that occurs twice.
        """
        wanted = pa.array(keys, pa.string())
        if twice := repeated(wanted):
            raise ValueError(f"sample id {twice!r} occurs twice; ids must be unique in a store")
        settled = [pa.array([] if again else list(self._given_up), pa.string())]
        settled += [chunk for ids in self._present for chunk in ids.chunks]
        here = pc.is_in(wanted, value_set=pa.concat_arrays(settled))
        places: NDArray[np.int64] = np.flatnonzero(~here.to_numpy(zero_copy_only=False))
        return places

    def write(self, labels: Iterable[Label], machines: Sequence[str] = ()) -> None:
        """Add a shard, unless there are no labels; OSError, without a partial file, if that fails."""
        rows = list(labels)
        if not rows:
            return
        run = {**self.run, "machines": list(machines), "written": now()}
        table = pa.Table.from_pylist([asdict(row) for row in rows], schema(self._settings, run))
        with self._explained():
            write_shard(table, self._folder / f"{self._name}-{self._next:05d}.parquet")
        self._next += 1
        self.empty = False

    def give_up(self, id: str, reasons: Sequence[str]) -> None:
        """Put a sample in quarantine."""
        self._quarantine[id] = list(reasons)
        with self._explained():
            write_quarantine(self._folder / f"quarantine-{self._name}.json", self._settings, self._quarantine)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as problem:
            raise _refused(self._folder, problem) from problem


SHARED = ", or divide the samples among several runs with shards"  # hint for a second run in the same folder


@contextmanager
def writing(
    folder: str | os.PathLike[str], settings: Mapping[str, Any], name: str = "labels"
) -> Iterator[Writer]:
    """A writer of shards `name`-00000.parquet and so on; the folder is created if missing.

    ValueError if the folder holds labels of other settings (naming the difference), or if another process
    writes under the same name.
    """
    path = Path(folder)
    with ExitStack() as held:
        try:
            held.enter_context(locked(path, name, SHARED))
        except OSError as problem:
            raise _refused(path, problem) from problem
        yield Writer(path, settings, name)


def write_shard(table: pa.Table, target: Path) -> None:
    """Write a shard atomically."""
    with replacing(target) as part, part.open("wb") as file:
        pq.write_table(table, file)


def pieces(table: pa.Table, settings: Mapping[str, Any]) -> list[pa.Table]:
    """Split the labels of a table, in order, into shards of one size without a run in their metadata."""
    whole = table.replace_schema_metadata(schema(settings).metadata)
    return [whole.slice(start, ROWS) for start in range(0, len(whole), ROWS)]


def write_quarantine(target: Path, settings: Mapping[str, Any], samples: Mapping[str, Sequence[str]]) -> None:
    """Write the quarantined samples with their reasons to a file, atomically."""
    content = {"format": FORMAT, "settings": dict(settings), "samples": dict(samples)}
    with replacing(target) as part:
        part.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def schema(settings: Mapping[str, Any], run: Mapping[str, Any] | None = None) -> pa.Schema:
    """The columns, with format, settings and run as metadata."""
    told = {"format": FORMAT, "settings": dict(settings), **({"run": dict(run)} if run else {})}
    return SCHEMA.with_metadata({KEY: json.dumps(told)})


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _refused(folder: Path, problem: OSError) -> OSError:
    why = problem.strerror or str(problem)
    return OSError(f"cannot write labels to {folder}: {why}; what was written before is safe")


# Reading ----------------------------------------------------------------------------------------------------


def described(shard: Path) -> _ShardDocument:
    """The metadata of a shard: format, settings, and the run that wrote it."""
    with _readable(shard):
        found = pq.read_schema(regular_file(shard))
    metadata = found.metadata or {}
    if KEY not in metadata or not found.equals(SCHEMA):
        raise ValueError(f"{shard}: not a label shard; labels need a folder of their own")
    told = parse(_ShardDocument, metadata[KEY], shard)
    if told.format != FORMAT:
        raise ValueError(f"{shard}: format {told.format}, but this version reads format {FORMAT}")
    return told


def read_quarantine(folder: Path, settings: Mapping[str, Any]) -> dict[str, list[str]]:
    """Quarantined samples of a folder; ValueError if they were recorded under other settings."""
    found: dict[str, list[str]] = {}
    for path in sorted(folder.glob("quarantine-*.json")):
        found |= _quarantined(path, settings)
    return found


def _quarantined(path: Path, settings: Mapping[str, Any]) -> dict[str, list[str]]:
    try:
        told = read(_Quarantine, path)
    except ValueError as problem:
        raise ValueError(f"{problem}; delete it to try its samples again") from problem
    refuse_difference(path, told.settings.model_dump(), settings)
    return told.samples


def read_shard(shard: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """All labels of a shard; ValueError if it is unreadable."""
    with _readable(shard):
        table = pq.read_table(shard, columns=columns, partitioning=None)
    for name in table.column_names:
        _refuse_unsound(shard, name, table[name])
    return table


def _refuse_unsound(shard: Path, name: str, column: pa.ChunkedArray | pa.Array) -> None:
    """ValueError for values that a label cannot have although the column's type allows them."""
    flat = pc.list_flatten(column) if pa.types.is_list(column.type) else column
    wrong = ""
    if flat.null_count or (column.null_count and name != "score"):
        wrong = "has nulls, which are not allowed"
    elif pa.types.is_floating(flat.type) and pc.all(pc.is_finite(flat)).as_py() not in (True, None):
        wrong = "has numbers that are not finite"
    elif name == "kept":
        lengths = pc.list_value_length(column).to_numpy(zero_copy_only=False)
        values = flat.to_numpy(zero_copy_only=False)
        starts = np.cumsum(lengths)[:-1]
        falling = np.flatnonzero(np.diff(values) <= 0) + 1
        if not lengths.all() or (values < 0).any() or not np.isin(falling, starts).all():
            wrong = "must list one token or more in ascending order"
    if wrong:
        raise ValueError(f"{shard}: the column {name} {wrong}; delete the file to label its samples again")


def _labels(shard: Path) -> Iterator[Label]:
    with _readable(shard), pq.ParquetFile(shard) as file:
        for batch in file.iter_batches(BATCH):
            for name in SCHEMA.names:
                _refuse_unsound(shard, name, batch[name])
            for row in batch.to_pylist():
                row = {field.name: row[field.name] for field in fields(Label)}
                row["kept"] = tuple(row["kept"])
                row["score"] = None if row["score"] is None else tuple(row["score"])
                yield Label(**row)


@contextmanager
def _readable(shard: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, pa.ArrowException) as problem:
        why = str(problem).partition("\n")[0]
        raise ValueError(f"{shard}: unreadable ({why}); delete it to label its samples again") from problem


def _number(shard: Path) -> int:
    digits = shard.stem.rpartition("-")[2]
    return int(digits) if digits.isdigit() else -1
