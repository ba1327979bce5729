"""Reading files: whole or refused, with the file and the place."""

from __future__ import annotations

import sys
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from bench.tasks.folder import Folder, Hub, Manifest, read_json, read_lines, read_table
from bench.tasks.pope import Pope


def test_a_broken_document_names_its_file(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"data": [1, 2')
    with pytest.raises(ValueError, match=r"a\.json: not JSON"):
        read_json(tmp_path / "a.json")
    (tmp_path / "a.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"a\.json: not UTF-8"):
        read_json(tmp_path / "a.json")


def test_a_broken_line_names_its_number(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": 1}\n\n{"a": 2}\n')
    assert read_lines(path) == [{"a": 1}, {"a": 2}]
    for bad in ('{"a": ', "[1]"):
        path.write_text('{"a": 1}\n' + bad)
        with pytest.raises(ValueError, match=r"a\.jsonl, line 2: (not JSON|not a JSON object)"):
            read_lines(path)


def test_a_table_may_quote_tabs_and_lines_and_must_have_its_columns(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_text('index\tquestion\n1\t"a\tb\nsaid ""c"""\n')
    assert read_table(path, ["index"]) == [{"index": "1", "question": 'a\tb\nsaid "c"'}]
    with pytest.raises(ValueError, match=r"a\.tsv: there is no column answer"):
        read_table(path, ["index", "answer"])


def test_a_broken_parquet_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "test-0.parquet").write_bytes(b"PAR1 but not really")
    with pytest.raises(ValueError, match=r"test-0\.parquet: not a whole Parquet file"):
        list(Folder(tmp_path).rows("data", "test"))
    with pytest.raises(ValueError, match=r"no data/val-\*\.parquet .it has data/test-0\.parquet"):
        list(Folder(tmp_path).rows("data", "val"))


def test_a_manifest_must_be_one(tmp_path: Path) -> None:
    assert Manifest.of(tmp_path) == Manifest()
    (tmp_path / "evocomp.json").write_text("[]")
    with pytest.raises(ValueError, match="evocomp.json: the document is a list of 0, but it must be"):
        Manifest.of(tmp_path)


class Rows:
    """As much of a `datasets.Dataset` as is used: rows, columns, and images that stay encoded."""

    def __init__(self, rows: list[dict[str, Any]], decoded: bool = True):
        self.rows, self.decoded = rows, decoded
        self.column_names = list(rows[0])

    def cast_column(self, name: str, kind: Any) -> Rows:
        assert name == "image" and kind == {"decode": False}
        return Rows(self.rows, decoded=False)

    def remove_columns(self, names: list[str]) -> Rows:
        return Rows([{k: v for k, v in row.items() if k not in names} for row in self.rows])

    def __getitem__(self, place: int) -> dict[str, Any]:
        assert not self.decoded
        return self.rows[place]

    def __iter__(self) -> Any:
        return iter(self.rows)


def test_the_hub_is_read_through_datasets(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load_dataset(name: str, config: str | None, *, split: str) -> Rows:
        asked.append((name, config, split))
        file = BytesIO()
        Image.new("RGB", (4, 2)).save(file, "PNG")
        picture = {"bytes": file.getvalue(), "path": ""}
        return Rows(
            [
                {
                    "question_id": "7",
                    "question": "A dog?",
                    "answer": "yes",
                    "category": "random",
                    "image": picture,
                }
            ]
        )

    fake = SimpleNamespace(load_dataset=load_dataset, Image=lambda decode: {"decode": decode})
    monkeypatch.setitem(sys.modules, "datasets", fake)
    task = Pope(protocol="lmms-eval")
    (one,) = task.whole(Folder.of("hub:lmms-lab", "pope", task.repository))
    assert asked == [("lmms-lab/POPE", None, "test")]
    assert (one.id, one.answers, one.image.size) == ("random-7", ("yes",), (4, 2))


def test_without_datasets_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ValueError, match=r"needs the library datasets: pip install 'evocomp\[hub\]'"):
        list(Hub(Path("lmms-lab/POPE")).rows("data", "test"))
