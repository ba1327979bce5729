"""The files of one benchmark, in the official layout or in lmms-lab's Parquet layout.

A folder of benchmarks has a sub-folder per task (docs/benchmarks.md). `evocomp data export` writes a file
`evocomp.json` into it with the protocol of the prompts and the numbers of samples:

    {"protocol": "micro", "sizes": {"pope/test": 300}}
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from bench.tasks.images import HubImage, ImageFile, ImageRow
from compress import documents
from compress.documents import Document, StoredCount, described, parse_json, read_text, regular_file
from compress.samples import ImageSource
from evosearch.registry import listed

MANIFEST = "evocomp.json"
HUB = "hub:"  # --data hub:lmms-lab
LONGEST = 2**31 - 1  # characters of a table's field, which may be a picture
LARGEST = 1 << 33  # bytes of a benchmark's file
RawRecord = dict[str, Any]


@dataclass(frozen=True)
class Manifest:
    """The manifest of a folder of benchmarks; empty for downloaded data."""

    protocol: str | None = None
    sizes: Mapping[str, int] = field(default_factory=dict)  # "task/split" -> samples

    @staticmethod
    def of(data: str | Path) -> Manifest:
        """Read the manifest; ValueError if it cannot be read."""
        path = Path(data) / MANIFEST
        if not path.exists():
            return Manifest()
        found = documents.read(_FolderDocument, path)
        return Manifest(found.protocol, found.sizes)


class _FolderDocument(Document):
    """The content of MANIFEST."""

    protocol: str | None = None
    sizes: dict[str, StoredCount] = {}


@dataclass(frozen=True)
class Folder:
    """`path` holds the files of one benchmark."""

    path: Path

    @staticmethod
    def of(data: str | Path, task: str, repository: str) -> Folder:
        """The task's part of a folder of benchmarks, or its repository for hub:OWNER; ValueError if none."""
        if str(data).startswith(HUB):
            return Hub(Path(str(data).removeprefix(HUB)) / repository)
        if not Path(data).is_dir():
            raise ValueError(f"there is no folder {data}: give the one that holds {task}/, or {HUB}lmms-lab")
        folder = Folder(Path(data) / task)
        if not folder.path.is_dir():
            have = sorted(one.name for one in Path(data).iterdir() if one.is_dir())
            named = f"it has {listed(have)}: name these as --tasks" if have else "it has none at all"
            raise ValueError(f"{data} has no sub-folder {task}/; {named}")
        return folder

    @property
    def tabular(self) -> bool:
        """True for lmms-lab's layout."""
        return any(self.path.rglob("*.parquet"))

    def find(self, *names: str) -> Path:
        """The only one of these files that exists; ValueError if none or several exist."""
        here = [self.path / name for name in names if (self.path / name).exists()]
        if len(here) > 1:
            raise ValueError(
                f"{self.path} has both {' and '.join(one.name for one in here)}: keep the one you mean"
            )
        if not here:
            have = sorted(one.name for one in self.path.iterdir())
            shown = listed(have, names[0], most=8) or "nothing"
            raise ValueError(f"{self.path} has no {' or '.join(names)} (it has {shown})")
        return here[0]

    def image(self, place: str, name: str) -> ImageFile:
        """An image in the sub-folder `place`; ValueError if its name leads out of it."""
        return ImageFile(self.path / place, name)

    def rows(
        self, config: str, split: str, *, picture: str = "image", alone: str = ""
    ) -> Iterator[tuple[RawRecord, ImageSource]]:
        """Yield the rows of a split in lmms-lab's layout, with the picture of the column `picture` only.

        Files are `{config}/{split}-*.parquet`, or the file `alone` with the whole split.
        """
        files = sorted(self.path.glob(f"{config}/{split}-*.parquet"))
        if not files and alone and (self.path / alone).exists():
            files = [self.path / alone]
        if not files:
            have = sorted({one.parent.name + "/" + one.name for one in self.path.rglob("*.parquet")})
            shown = listed(have, f"{config}/{split}", most=8)
            raise ValueError(f"{self.path} has no {config}/{split}-*.parquet (it has {shown})")
        for path in files:
            try:
                yield from _parquet(path, picture)
            except (pa.ArrowException, OSError) as problem:
                raise ValueError(f"{path}: not a whole Parquet file ({problem}); fetch it again") from problem


@dataclass(frozen=True)
class Hub(Folder):
    """A data repository on the hub, read through the library `datasets`; `path` is its name."""

    @property
    def tabular(self) -> bool:
        return True

    def rows(
        self, config: str, split: str, *, picture: str = "image", alone: str = ""
    ) -> Iterator[tuple[RawRecord, ImageSource]]:
        try:
            datasets = import_module("datasets")
        except ModuleNotFoundError as problem:
            raise ValueError(
                f"{HUB}{self.path.parent} needs the library datasets: pip install 'evocomp[hub]', "
                f"or give --data a folder"
            ) from problem
        name = self.path.as_posix()
        found = datasets.load_dataset(name, None if config in ("data", "*") else config, split=split)
        columns = [one for one in found.column_names if _is_picture(one)]
        plain, pictures = found.remove_columns(columns) if columns else found, None
        if picture in columns:
            pictures = found.cast_column(picture, datasets.Image(decode=False))
        for place, row in enumerate(plain):
            yield dict(row), HubImage(pictures, place, f"{name}/{config}/{split} {place}", picture)


def _is_picture(column: str) -> bool:
    """True for `image`, or `image_1` and so on."""
    return column == "image" or column.removeprefix("image_").isdecimal()


def _parquet(path: Path, picture: str) -> Iterator[tuple[RawRecord, ImageSource]]:
    regular_file(path)
    with pq.ParquetFile(path) as file:
        names = [name for name in file.schema_arrow.names if not _is_picture(name)]
        for group in range(file.num_row_groups):
            for place, row in enumerate(file.read_row_group(group, columns=names).to_pylist()):
                yield row, ImageRow(path, group, place, picture)


def read_json(path: Path) -> Any:
    """Read a JSON file; ValueError if it is not a complete JSON document."""
    return documents.read_json(path, LARGEST)


def read_lines(path: Path) -> list[RawRecord]:
    """Read the records of a JSON Lines file; ValueError, with the line, for an invalid one."""
    rows = []
    for number, line in enumerate(io.StringIO(read_text(path, LARGEST)), 1):
        if not line.strip():
            continue
        row = parse_json(line, f"{path}, line {number}")
        if not isinstance(row, dict):
            raise ValueError(f"{path}, line {number}: not a JSON object")
        rows.append(row)
    return rows


def read_table(path: Path, needed: Sequence[str]) -> list[RawRecord]:
    """Read the rows of a tab-separated file with a header.

    ValueError if `needed` columns are missing, for a repeated column, for a NUL character, and for a row of
    another length.
    """
    text = read_text(path, LARGEST)
    if (place := text.find("\0")) >= 0:
        raise ValueError(f"{path}, line {text.count(chr(10), 0, place) + 1}: there is a NUL character")
    csv.field_size_limit(LONGEST)
    try:
        return _table(path, text, needed)
    except csv.Error as problem:
        raise ValueError(f"{path}: not a tab-separated table ({problem})") from problem


def _table(path: Path, text: str, needed: Sequence[str]) -> list[RawRecord]:
    rows = csv.reader(io.StringIO(text, newline=""), delimiter="\t")
    header = next(rows, [])
    if lacking := [name for name in needed if name not in header]:
        raise ValueError(
            f"{path}: there is no column {', '.join(lacking)} (columns: {listed(header, lacking[0])})"
        )
    if twice := [name for name in header if header.count(name) > 1]:
        raise ValueError(f"{path}: the column {listed(twice[:1])} is there twice: keep the one you mean")
    read = []
    for number, row in enumerate(rows, 2):
        if len(row) != len(header):
            raise ValueError(f"{path}, row {number}: {len(row)} fields instead of {len(header)}: is it cut?")
        read.append(dict(zip(header, row, strict=True)))
    return read


# Fields of a record ------------------------------------------------------------------------------------


def text(row: RawRecord, field: str) -> str:
    """The text of a field; KeyError if it is missing, ValueError if it is not text that a model can read."""
    return _text(row[field], field)


def texts(row: RawRecord, field: str) -> tuple[str, ...]:
    """The list of texts in a field, empty if the field is missing; ValueError for any other value."""
    value = row.get(field)
    if value is None:
        return ()
    if not isinstance(value, list | tuple):
        raise ValueError(f"{field} is {described(value)}, but it must be a list of texts")
    return tuple(_text(one, f"{field}[{place}]") for place, one in enumerate(value))


def answers(row: RawRecord) -> tuple[str, ...]:
    """The answers of the annotators, if the record has a list of objects with a text `answer`."""
    given = row.get("answers") or ()
    if not isinstance(given, list | tuple) or not all(isinstance(one, dict) for one in given):
        raise ValueError(f"answers is {described(given)}, but it must be a list of objects")
    return tuple(text(one, "answer") for one in given)


def identifier(row: RawRecord, field: str) -> str:
    """A name that may be a number or None; ValueError for any other value."""
    value = row[field]
    if value is None or (isinstance(value, int) and not isinstance(value, bool)):
        return str(value)
    return _text(value, field)


def _text(value: object, field: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{field} is {described(value)}, but it must be a text")
    if "\0" in value or any("\ud800" <= sign <= "\udfff" for sign in value):
        raise ValueError(f"{field} is {described(value)}: it has a character that no text may have")
    return value
