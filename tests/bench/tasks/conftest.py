"""Hand-made folders of benchmarks, in the files that the official ones come in."""

from __future__ import annotations

import csv
import json
from base64 import b64encode
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image


class Files:
    """Writes below one folder of benchmarks."""

    def __init__(self, root: Path):
        self.root = root
        self._sizes: dict[str, int] = {}

    def json(self, name: str, content: object) -> Path:
        path = self._path(name)
        path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
        return path

    def lines(self, name: str, rows: Sequence[object]) -> Path:
        path = self._path(name)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return path

    def table(self, name: str, rows: Sequence[Mapping[str, Any]]) -> Path:
        path = self._path(name)
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter="\t", lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        return path

    def parquet(self, name: str, rows: list[dict[str, Any]]) -> Path:
        path = self._path(name)
        pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=2)
        return path

    def image(self, name: str, color: str = "red", size: tuple[int, int] = (8, 6)) -> Path:
        path = self._path(name)
        path.write_bytes(self.png(color, size))
        return path

    def png(self, color: str = "red", size: tuple[int, int] = (8, 6)) -> bytes:
        file = BytesIO()
        Image.new("RGB", size, color).save(file, "PNG")
        return file.getvalue()

    def text(self, color: str = "red") -> str:
        return b64encode(self.png(color)).decode()

    def sizes(self, **parts: int) -> None:
        """Say in evocomp.json how many samples there are: `pope__test=4`."""
        self._sizes |= {name.replace("__", "/").replace("_", "-"): size for name, size in parts.items()}
        self.json("evocomp.json", {"sizes": self._sizes})

    def _path(self, name: str) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path / "benchmarks")
