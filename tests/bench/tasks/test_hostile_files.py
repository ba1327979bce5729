"""Benchmark files that nobody should trust: each is refused in one line, before any question is asked."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bench.data.export import export
from bench.tasks import TASKS
from bench.tasks.folder import read_json, read_lines, read_table
from bench.tasks.load import load_tasks

REAL = [name for name, task in TASKS.items() if task.splits]


def refused(folder: Path, name: str, split: str | None = None) -> str:
    with pytest.raises(ValueError) as problem:
        load_tasks([name], data=str(folder), split=split)
    line = str(problem.value)
    assert str(folder) in line and "\n" not in line and len(line) < 600
    return line


@pytest.fixture(scope="module", params=["official", "lmms-lab"])
def layouts(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hostile") / request.param
    export(folder, REAL, 4, request.param)
    return folder


@pytest.mark.parametrize("name", REAL)
def test_a_split_that_the_folder_does_not_have_is_refused(layouts: Path, name: str) -> None:
    task = TASKS[name](protocol="llava")
    for split in [one for one in task.splits if one != task.part]:
        refused(layouts, name, split)


def json_files(folder: Path, name: str, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the first record of a benchmark as distributed."""
    if name == "pope":
        path = folder / "pope" / "coco_pope_random.json"
        first, *rest = path.read_text().splitlines()
        row = json.loads(first)
        change(row)
        path.write_text("\n".join([json.dumps(row), *rest]))
        return
    path, find = {
        "gqa": ("testdev_balanced_questions.json", lambda told: next(iter(told.values()))),
        "vqav2": ("v2_mscoco_val2014_annotations.json", lambda told: told["annotations"][0]),
        "vizwiz": ("val.json", lambda told: told[0]),
        "textvqa": ("TextVQA_0.5.1_val.json", lambda told: told["data"][0]),
    }[name]
    told = json.loads((folder / name / path).read_text())
    change(find(told))
    (folder / name / path).write_text(json.dumps(told))


@pytest.mark.parametrize("value", [None, 3, 0, True, ["x"], "a\0b"], ids=repr)
@pytest.mark.parametrize("name", ["gqa", "pope", "vqav2", "vizwiz", "textvqa"])
def test_an_answer_that_is_no_text_is_refused_before_the_work(tmp_path: Path, name: str, value: Any) -> None:
    def change(row: dict[str, Any]) -> None:
        if name in ("vqav2", "vizwiz"):
            row["answers"][2]["answer"] = value
        elif name == "textvqa":
            row["answers"][2] = value
        else:
            row["label" if name == "pope" else "answer"] = value

    export(tmp_path / "data", [name], 4)
    json_files(tmp_path / "data", name, change)
    assert "record 0: " in refused(tmp_path / "data", name)


@pytest.mark.parametrize("name", REAL)
def test_questions_as_bytes_in_parquet_are_refused(tmp_path: Path, name: str) -> None:
    export(tmp_path / "data", [name], 4, "lmms-lab")
    for path in (tmp_path / "data" / name).rglob("*.parquet"):
        table = pq.read_table(path)
        if "question" in table.column_names:
            place = table.column_names.index("question")
            pq.write_table(table.set_column(place, "question", table["question"].cast(pa.binary())), path)
    assert "question is " in refused(tmp_path / "data", name)


@pytest.mark.parametrize("column", ["missing", "texts", "nulls"])
def test_an_image_column_of_another_kind_is_named(tmp_path: Path, column: str) -> None:
    export(tmp_path / "data", ["pope"], 4, "lmms-lab")
    (path,) = (tmp_path / "data" / "pope").rglob("*.parquet")
    table = pq.read_table(path).drop_columns("image")
    if column != "missing":
        table = table.append_column("image", pa.array(["x" if column == "texts" else None] * len(table)))
    pq.write_table(table, path)
    ((_, samples),) = load_tasks(["pope"], data=str(tmp_path / "data")).items()
    with pytest.raises(ValueError, match=f"{path}, row group 0, row 0: there is no"):
        _ = samples[0].picture()


def test_bytes_of_another_encoding_name_their_file(tmp_path: Path) -> None:
    export(tmp_path / "data", ["vqav2", "pope", "mmbench"], 4)
    for file in (
        "vqav2/v2_mscoco_val2014_annotations.json",
        "pope/coco_pope_popular.json",
        "mmbench/MMBench_DEV_EN.tsv",
    ):
        path = tmp_path / "data" / file
        path.write_bytes(path.read_bytes().replace(b"e", b"\xe9", 1))
        assert f"{path}: not UTF-8" in refused(tmp_path / "data", file.partition("/")[0])


def test_a_byte_order_mark_is_no_content(tmp_path: Path) -> None:
    export(tmp_path / "data", ["vqav2", "pope", "mmbench"], 4)
    for path in [*(tmp_path / "data").rglob("*.json"), *(tmp_path / "data").rglob("*.tsv")]:
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert len(load_tasks(["vqav2", "pope", "mmbench"], data=str(tmp_path / "data"))) == 3


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("\tA\t", "\tB\t", "the column B is there twice"),
        ("What", "Wh\0at", "there is a NUL character"),
        ("index", "x" * 100_000, "there is no column index (columns: "),
    ],
)
def test_a_table_that_means_two_things_is_refused(tmp_path: Path, old: str, new: str, said: str) -> None:
    path = tmp_path / "a.tsv"
    path.write_text("index\tquestion\tA\tB\n1\tWhat\tx\ty\n".replace(old, new))
    with pytest.raises(ValueError, match="a.tsv") as problem:
        read_table(path, ["index"])
    assert said in str(problem.value) and len(str(problem.value)) < 400


@pytest.mark.parametrize("answer", ["AB", "BC", "ABCD"])
def test_an_answer_of_several_letters_is_no_option(files: Any, answer: str) -> None:
    row = {
        "index": 1, "question": "What?", "hint": "", "A": "x", "B": "y", "C": "z", "D": "w",
        "answer": answer, "category": "c", "image": files.text(),
    }  # fmt: skip
    files.table("mmbench/MMBench_DEV_EN.tsv", [row])
    files.sizes(mmbench__dev=1)
    with pytest.raises(ValueError, match=f"the answer is '{answer}'"):
        TASKS["mmbench"](protocol="llava").load(files.root)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes")
def test_pipes_and_devices_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for place in (tmp_path / "pipe", Path("/dev/zero")):
        for read in (read_json, read_lines, lambda path: read_table(path, [])):
            with pytest.raises(ValueError, match="give a regular file"):
                read(place)
    export(tmp_path / "data", ["pope"], 4)
    (tmp_path / "data" / "evocomp.json").unlink()
    os.mkfifo(tmp_path / "data" / "evocomp.json")
    assert "this is a FIFO" in refused(tmp_path / "data", "pope")


def test_an_unknown_protocol_names_its_file(tmp_path: Path) -> None:
    export(tmp_path / "data", ["pope"], 4)
    (tmp_path / "data" / "evocomp.json").write_text('{"protocol": "x"}')
    assert "evocomp.json: unknown protocol 'x'" in refused(tmp_path / "data", "pope")


def test_a_document_of_a_hundred_thousand_levels_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("[" * 100_000 + "]" * 100_000)
    for read in (read_json, read_lines):
        with pytest.raises(ValueError, match="a.json.*200 levels"):
            read(tmp_path / "a.json")
