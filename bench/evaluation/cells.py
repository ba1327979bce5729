"""Finished cells of a comparison on disk: a Parquet file per cell, a row per sample, the rest as metadata.

    folder/cells/gqa-48-fastv-1a2b3c4d.parquet

`pandas.read_parquet(folder / "cells")` reads all predictions of all methods at once. A cell is written as a
whole or not at all, and its metadata hold the protocol it was made under. Its seconds are in times.json.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import Field, NonNegativeFloat

from bench.evaluation.evaluate import Outcome, Stage
from bench.evaluation.history import Times
from bench.evaluation.ledger import Ledger
from bench.evaluation.protocol import Facts, apart_from_code, differences, same_code
from compress.base import VISION
from compress.documents import Document, Positive, parse, regular_file
from compress.files import replacing
from compress.keep import Keep, Ratio, StoredKeep
from compress.samples import Sample
from evosearch.registry import cut

FORMAT, META = 4, b"evocomp-cell"
READABLE = (3, FORMAT)  # cells of format 3 also hold seconds, which are ignored
AGAIN = "delete it to compute its cell again"
INDICES = pa.list_(pa.int32())
STAGE = pa.struct([("depth", pa.int32()), ("kept", INDICES), ("merged", INDICES)])
ROW = pa.schema(
    [
        pa.field("method", pa.string(), nullable=False),
        pa.field("keep", pa.int32()),  # requested count, null for a ratio
        pa.field("ratio", pa.string()),  # requested ratio, null for a count
        pa.field("task", pa.string(), nullable=False),
        pa.field("sample", pa.string(), nullable=False),
        pa.field("question", pa.string(), nullable=False),
        pa.field("answers", pa.list_(pa.string()), nullable=False),
        pa.field("prediction", pa.string(), nullable=False),
        pa.field("correct", pa.float64(), nullable=False),  # credit, 0 to 1
        pa.field("tokens", pa.int32(), nullable=False),  # visual tokens after the last stage
        pa.field("kept", INDICES, nullable=False),  # their indices, -1 = a token of the whole image
        pa.field("path", pa.list_(STAGE), nullable=False),  # tokens kept at each depth; see `Stage`
    ]
)


class CellKey(NamedTuple):
    """The position of a cell in the grid; for vanilla `keep` is the number of tokens of the whole image."""

    method: str
    keep: Keep
    task: str


@dataclass(frozen=True)
class Cell:
    """One cell of the grid with its outcome, or the reason for having none.

    `failed` cells may succeed on another try.
    """

    key: CellKey
    protocol: Facts
    method: Facts  # facts of the method
    outcome: Outcome | None
    impossible: str = ""
    failed: bool = False


def read_cells(folder: Path) -> list[Cell]:
    """Read all cells of a comparison's folder, sorted by name. ValueError for a cell that cannot be read."""
    return [_read(path) for path in sorted((folder / "cells").glob("*.parquet"))]


class Cells:
    """The cells of one comparison's folder; without a folder (None) they are kept in memory only."""

    def __init__(self, folder: Path | None, protocol: Facts, methods: Mapping[str, Facts]):
        """Read the folder. ValueError, which names every difference, if it holds cells of another protocol.

        `methods` are the methods of this run: a cell with the name of one of them must have the same facts.
        Cells that differ only in the code that made them are listed as `stale`; they count as missing and are
        measured again.
        """
        self._folder, self._protocol, self._methods = folder, protocol, methods
        self.found: dict[CellKey, Cell] = {}
        self.stale: list[CellKey] = []
        for cell in read_cells(folder) if folder else []:
            method = methods.get(cell.key.method, {})
            other = differences(cell.protocol, apart_from_code(protocol))
            named = differences(cell.method, apart_from_code(method))
            other += [f"{cell.key.method}: {one}" for one in named]
            if other:
                raise ValueError(
                    f"{folder} was made with other settings: {'; '.join(other)}. "
                    f"Choose these, or another folder"
                )
            if same_code(cell.protocol, self._facts(cell.key.task)) and same_code(cell.method, method):
                self.found[cell.key] = cell
            else:
                self.stale.append(cell.key)

    def finished(self, key: CellKey) -> bool:
        """Return whether a cell has an outcome; a cell that was impossible is tried again."""
        return key in self.found and self.found[key].outcome is not None

    def add(
        self, key: CellKey, samples: Sequence[Sample], outcome: Outcome | None, impossible: str = "",
        *, failed: bool = False,
    ) -> None:  # fmt: skip
        """Add a cell and write it to disk at once. OSError if it cannot be written; no part of it remains."""
        own, protocol = self._methods[key.method], self._facts(key.task)
        self.found[key] = cell = Cell(key, protocol, own, outcome, impossible, failed)
        if self._folder:
            path = self._folder / "cells" / f"{stem_of(key)}.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            if outcome and outcome.seconds is not None:  # before the cell, so that no cell lacks its seconds
                Times.read(self._folder).took({path.stem: outcome.seconds}).save(self._folder)
            with replacing(path) as part, part.open("wb") as file:
                pq.write_table(_table(cell, samples), file)

    def _facts(self, task: str) -> Facts:
        """The facts of the protocol that concern a task."""
        return {
            name: value
            for name, value in self._protocol.items()
            if ": " not in name or name.startswith(f"{task}: ")
        }


def stem_of(key: CellKey) -> str:
    """The name of a cell's file without its suffix; times.json holds the cell's seconds under it."""
    words = re.sub(r"[^A-Za-z0-9.]+", "-", key.method).strip("-")[:60]
    digest = sha256(repr(tuple(key)).encode()).hexdigest()[:8]
    keep = str(key.keep).replace("/", "-of-").replace("%", "-percent")
    return f"{key.task}-{keep}-{words}-{digest}"


def _table(cell: Cell, samples: Sequence[Sample]) -> pa.Table:
    meta: dict[str, Any] = {
        "format": FORMAT, "key": list(cell.key), "protocol": dict(cell.protocol), "method": dict(cell.method),
        "impossible": cell.impossible, "outcome": None,
    }  # fmt: skip
    if cell.failed:
        meta["failed"] = True
    rows: list[dict[str, Any]] = []
    if outcome := cell.outcome:
        meta["outcome"] = {
            "credit": outcome.credit, "sums": outcome.sums, "images": outcome.images, "score": outcome.score,
            "draws": outcome.draws,
            "ledger": asdict(outcome.cost), "stages": outcome.stages,
            "subscores": dict(outcome.subscores), "batch": outcome.batch,
        }  # fmt: skip
        ratio = isinstance(cell.key.keep, Ratio)
        budget = cell.key._asdict() | {"ratio": cell.key.keep if ratio else None}
        budget |= {"keep": None} if ratio else {}
        answered = zip(samples, outcome.predictions, outcome.correct, outcome.kept, outcome.path, strict=True)
        rows = [
            {
                **budget, "sample": one.id, "question": one.question, "answers": one.answers,
                "prediction": said, "correct": correct, "tokens": len(kept), "kept": kept,
                "path": [asdict(stage) for stage in path],
            }
            for one, said, correct, kept, path in answered
        ]  # fmt: skip
    return pa.Table.from_pylist(rows, ROW.with_metadata({META: json.dumps(meta)}))


class _OutcomeDocument(Document):
    """The outcome in a cell's metadata; the rest of the outcome is in the rows."""

    credit: tuple[NonNegativeFloat, ...]
    sums: tuple[tuple[NonNegativeFloat, ...], ...]
    images: tuple[str, ...]
    score: NonNegativeFloat
    draws: tuple[NonNegativeFloat, ...]
    ledger: Ledger
    stages: tuple[Annotated[int, Field(ge=VISION, le=10**4)], ...]
    subscores: dict[str, NonNegativeFloat] = {}
    batch: Positive | None = None


class _CellDocument(Document):
    """The metadata of a cell."""

    format: int
    key: tuple[str, StoredKeep, str]
    protocol: dict[str, Any]
    method: dict[str, Any]
    impossible: str
    failed: bool = False
    outcome: _OutcomeDocument | None


def _read(path: Path) -> Cell:
    try:
        table = pq.read_table(regular_file(path), partitioning=None)
    except (OSError, pa.ArrowException) as problem:
        raise ValueError(f"{path}: unreadable ({cut(problem, 200)}); {AGAIN}") from problem
    metadata = table.schema.metadata or {}
    if META not in metadata or not table.schema.equals(ROW):
        raise ValueError(f"{path}: not a cell of a comparison; results need a folder of their own")
    try:
        told = parse(_CellDocument, metadata[META], path)
        if told.format not in READABLE:
            raise ValueError(f"{path}: format {told.format}, but this version reads format {FORMAT}")
        return _cell(told, table, path)
    except ValueError as problem:
        raise ValueError(f"{problem}; {AGAIN}") from problem


def _cell(told: _CellDocument, table: pa.Table, path: Path) -> Cell:
    key = CellKey(*told.key)
    if (about := told.outcome) is None:
        return Cell(key, told.protocol, told.method, None, told.impossible, told.failed)
    for name in table.column_names:
        if name not in ("keep", "ratio") and _has_nulls(table[name]):
            raise ValueError(f"{path}: the column {name} has nulls, which are not allowed")
    correct = tuple(table["correct"].to_pylist())
    if not table.num_rows or not all(0 <= one <= 1 for one in correct):
        raise ValueError(f"{path}: it must have a row per sample, with a credit from 0 to 1 in correct")
    if not len(about.credit) == len(about.sums) == len(about.images) > 0:
        raise ValueError(f"{path}: outcome: credit, sums and images must have one entry per question")
    if len({len(one) for one in about.sums}) != 1:
        raise ValueError(f"{path}: outcome.sums must have rows of one length")
    ledger = about.ledger
    outcome = Outcome(
        task=key.task,
        samples=tuple(table["sample"].to_pylist()),
        predictions=tuple(table["prediction"].to_pylist()),
        correct=correct,
        kept=tuple(map(tuple, table["kept"].to_pylist())),
        path=tuple(map(_stages, table["path"].to_pylist())),
        credit=about.credit,
        sums=about.sums,
        images=about.images,
        score=about.score,
        draws=about.draws,
        ledger=replace(
            ledger,
            entering=tuple(ledger.entering),
            cached=None if ledger.cached is None else tuple(ledger.cached),
        ),
        stages=about.stages,
        subscores=about.subscores,
        batch=about.batch,
    )
    return Cell(key, told.protocol, told.method, outcome, told.impossible)


def _has_nulls(column: pa.ChunkedArray | pa.Array) -> bool:
    """Return whether the column has a null at any depth."""
    if column.null_count:
        return True
    if pa.types.is_list(column.type):
        return _has_nulls(pc.list_flatten(column))
    if pa.types.is_struct(column.type):
        return any(_has_nulls(pc.struct_field(column, place)) for place in range(column.type.num_fields))
    return False


def _stages(told: Sequence[Mapping[str, Any]]) -> tuple[Stage, ...]:
    return tuple(Stage(one["depth"], tuple(one["kept"]), tuple(one["merged"])) for one in told)
