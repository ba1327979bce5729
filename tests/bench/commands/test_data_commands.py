"""`evocomp data export`, and `eval` and `compare` on what it wrote."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.tasks import TASKS
from compress.models.loading import MODELS
from tests.cli import parsed, refused, run

pytestmark = pytest.mark.skipif(not MODELS["micro"].is_dir(), reason="the shipped weights are not built")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "benchmarks"
    sizes = parsed("data", "export", "--out", path, "-n", 8)
    assert sizes["pope/test"] == 8 and len(sizes) == len(TASKS) - 2  # scenes and clips are no benchmarks
    return path


def test_exported_benchmarks_score_as_the_miniatures(folder: Path) -> None:
    tasks = ("--tasks", "pope,gqa,mmbench", "--method", "grid", "--keep", 36)
    read, made = parsed("eval", *tasks, "--data", folder), parsed("eval", *tasks, "-n", 8)
    assert [one["score"] for one in read] == [one["score"] for one in made]
    assert [(one["split"], one["protocol"], one["n"]) for one in read] == [
        ("test", "micro", 8), ("testdev", "micro", 8), ("dev", "micro", 32),
    ]  # fmt: skip
    assert read[0]["metric"] == "mean F1" and "said yes" in read[0]["subscores"]


def test_protocols_and_options_reach_the_benchmark(folder: Path) -> None:
    (one,) = parsed(
        "eval", "--tasks", "pope:rule=robust", "--data", folder, "--protocol", "lmms-eval", "-n", 6
    )
    assert (one["metric"], one["protocol"], one["n"]) == ("pooled F1", "lmms-eval", 6)
    table = run("eval", "--tasks", "vizwiz", "--data", folder).stdout
    assert "protocol micro" in table and "predicted unanswerable" in table


def test_compare_reads_data_and_refuses_to_go_on_under_another_protocol(folder: Path, tmp_path: Path) -> None:
    grid = (
        "compare",
        "--tasks",
        "pope",
        "--data",
        folder,
        "--methods",
        "grid",
        "--keep",
        36,
        "--out",
        tmp_path / "out",
    )
    assert run(*grid).exit_code == 0
    message = refused(*grid, "--protocol", "lmms-eval")
    assert "pope: protocol is 'micro'" in message and "'lmms-eval'" in message
    facts = json.loads((tmp_path / "out" / "results.json").read_text())
    assert facts


def test_a_submission_is_written_and_has_no_score(folder: Path, tmp_path: Path) -> None:
    rows = json.loads((folder / "vizwiz" / "val.json").read_text())
    (tmp_path / "data" / "vizwiz" / "test").mkdir(parents=True)
    for row in rows:
        image = (folder / "vizwiz" / "val" / row["image"]).read_bytes()
        (tmp_path / "data" / "vizwiz" / "test" / row["image"]).write_bytes(image)
    test = [{key: row[key] for key in ("image", "question")} for row in rows]
    (tmp_path / "data" / "vizwiz" / "test.json").write_text(json.dumps(test))
    (tmp_path / "data" / "evocomp.json").write_text('{"protocol": "micro", "sizes": {"vizwiz/test": 8}}')
    asked = ("eval", "--tasks", "vizwiz", "--data", tmp_path / "data", "--split", "test")
    assert "not public" in refused(*asked)
    (one,) = parsed(*asked, "--submission", tmp_path / "out")
    assert (one["method"], one["score"]) == ("none", None)
    handed = json.loads((tmp_path / "out" / "vizwiz-test.json").read_text())
    assert [row["image"] for row in handed] == [row["image"] for row in rows] and all(
        row["answer"] for row in handed
    )


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--protocol", "lava"), "unknown protocol 'lava'; did you mean 'llava'"),
        (("--split", "train"), "unknown split of task 'pope' 'train'"),
        (("--submission", "out", "-n", 3), "--submission needs --data and no -n"),
        (("--submission", "out"), "pope: no submission is possible"),
    ],
)
def test_mistakes(folder: Path, args: tuple[object, ...], words: str, tmp_path: Path) -> None:
    given = [tmp_path / one if one == "out" else one for one in args]
    assert words in refused("eval", "--tasks", "pope", "--data", folder, *given)
    assert not (tmp_path / "out").exists()


def test_an_export_is_refused_where_one_lies(folder: Path) -> None:
    assert "exists: choose another folder" in refused("data", "export", "--out", folder)
