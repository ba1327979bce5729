"""The files of one benchmark, as distributed or in lmms-lab's Parquet layout.

A folder of benchmarks has a sub-folder per task (docs/benchmarks.md). `evocomp data export` leaves a file
`evocomp.json` in it that says under which protocol it is asked and how many samples it holds:

    {"protocol": "micro", "sizes": {"pope/test": 300}}
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from bench.data.images import HubImage, ImageFile, ImageRow
from compress.samples import Picture

MANIFEST = "evocomp.json"
HUB = "hub:"  # --data hub:lmms-lab
LONGEST = 2**31 - 1  # characters of a table's field: a picture is one
Row = dict[str, Any]


@dataclass(frozen=True)
class Manifest:
    """What a folder of benchmarks says of itself; empty for downloaded data."""

    protocol: str | None = None
    sizes: Mapping[str, int] = field(default_factory=dict)  # "task/split" -> samples

    @staticmethod
    def of(data: str | Path) -> Manifest:
        """ValueError for one that cannot be read."""
        path = Path(data) / MANIFEST
        if not path.is_file():
            return Manifest()
        content = read_json(path)
        if not isinstance(content, dict) or not isinstance(content.get("sizes", {}), dict):
            raise ValueError(f'{path}: write {{"protocol": ..., "sizes": {{"task/split": samples}}}}')
        return Manifest(content.get("protocol"), content.get("sizes", {}))


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
            named = f"it has {', '.join(have)}: name these as --tasks" if have else "it has none at all"
            raise ValueError(f"{data} has no sub-folder {task}/; {named}")
        return folder

    @property
    def tabular(self) -> bool:
        """Whether this is lmms-lab's layout."""
        return any(self.path.rglob("*.parquet"))

    def find(self, *names: str) -> Path:
        """The one of these files that is here; ValueError if it is none, or more than one."""
        here = [self.path / name for name in names if (self.path / name).exists()]
        if len(here) > 1:
            raise ValueError(
                f"{self.path} has both {' and '.join(one.name for one in here)}: keep the one you mean"
            )
        if not here:
            have = sorted(one.name for one in self.path.iterdir())
            shown = ", ".join(have[:8]) + (" ..." if len(have) > 8 else "")
            raise ValueError(f"{self.path} has no {' or '.join(names)} (it has {shown or 'nothing'})")
        return here[0]

    def image(self, place: str, name: str) -> ImageFile:
        """An image in the sub-folder `place`; ValueError if its name leads out of it."""
        return ImageFile(self.path / place, name)

    def rows(self, config: str, split: str) -> Iterator[tuple[Row, Picture]]:
        """Rows of a split in lmms-lab's layout, images aside: `{config}/{split}-*.parquet`."""
        files = sorted(self.path.glob(f"{config}/{split}-*.parquet"))
        if not files:
            have = sorted({one.parent.name + "/" + one.name for one in self.path.rglob("*.parquet")})
            raise ValueError(f"{self.path} has no {config}/{split}-*.parquet (it has {', '.join(have[:8])})")
        for path in files:
            try:
                yield from _parquet(path)
            except (pa.ArrowException, OSError) as problem:
                raise ValueError(f"{path}: not a whole Parquet file ({problem}); fetch it again") from problem


@dataclass(frozen=True)
class Hub(Folder):
    """A repository of data on the hub, through the library `datasets`; `path` is its name."""

    @property
    def tabular(self) -> bool:
        return True

    def rows(self, config: str, split: str) -> Iterator[tuple[Row, Picture]]:
        try:
            datasets = import_module("datasets")
        except ModuleNotFoundError as problem:
            raise ValueError(
                f"{HUB}{self.path.parent} needs the library datasets: pip install 'evocomp[hub]', "
                f"or give --data a folder"
            ) from problem
        name = self.path.as_posix()
        found = datasets.load_dataset(name, None if config == "data" else config, split=split)
        plain, pictures = found, None
        if "image" in found.column_names:
            pictures = found.cast_column("image", datasets.Image(decode=False))
            plain = found.remove_columns("image")
        for place, row in enumerate(plain):
            yield dict(row), HubImage(pictures, place, f"{name}/{config}/{split} {place}")


def _parquet(path: Path) -> Iterator[tuple[Row, Picture]]:
    with pq.ParquetFile(path) as file:
        names = [name for name in file.schema_arrow.names if name != "image"]
        for group in range(file.num_row_groups):
            for place, row in enumerate(file.read_row_group(group, columns=names).to_pylist()):
                yield row, ImageRow(path, group, place)


def read_json(path: Path) -> Any:
    """ValueError for what is no whole JSON document."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as problem:
        raise ValueError(f"{path}: not a whole JSON document ({problem}); fetch it again") from problem


def read_lines(path: Path) -> list[Row]:
    """Records of a JSON Lines file; ValueError with the line for what is none."""
    rows = []
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as problem:
                raise ValueError(f"{path}, line {number}: not a JSON object ({problem})") from problem
            if not isinstance(row, dict):
                raise ValueError(f"{path}, line {number}: not a JSON object")
            rows.append(row)
    return rows


def read_table(path: Path, needed: Sequence[str]) -> list[Row]:
    """Rows of a tab-separated file with a header; ValueError without the `needed` columns, and for a row of
    another length.
    """
    csv.field_size_limit(LONGEST)
    try:
        return _table(path, needed)
    except csv.Error as problem:
        raise ValueError(f"{path}: not a tab-separated table ({problem})") from problem


def _table(path: Path, needed: Sequence[str]) -> list[Row]:
    with path.open(encoding="utf-8", newline="") as file:
        rows = csv.reader(file, delimiter="\t")
        header = next(rows, [])
        lacking = [name for name in needed if name not in header]
        if lacking:
            raise ValueError(
                f"{path}: there is no column {', '.join(lacking)} (columns: {', '.join(header)})"
            )
        read = []
        for number, row in enumerate(rows, 2):
            if len(row) != len(header):
                raise ValueError(
                    f"{path}, row {number}: {len(row)} fields instead of {len(header)}: is it cut?"
                )
            read.append(dict(zip(header, row, strict=True)))
    return read
