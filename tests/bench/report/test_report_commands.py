"""`evocomp report` and `evocomp draw`, and what `compare --out` leaves for them, through click's runner."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from PIL import Image

from bench.evaluation.origin import Origin
from bench.report.gallery import read_gallery
from compress.models.loading import MODELS
from tests.cli import done, refused

pytestmark = pytest.mark.skipif(not MODELS["micro"].is_dir(), reason="the shipped weights are not built")

STAR = ("micro:3", "what color is the star ?")
GRID = ("compare", "--keep", "48,32", "--tasks", "gqa,pope", "-n", 4)


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("report") / "tables"
    done(*GRID, "--methods", "visionzip,pyramiddrop", "--reference", "visionzip", "--out", out)
    return out


def data_of(page: Path) -> dict:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page.read_text(), re.S)
    assert found
    return json.loads(found[1])


# Report -----------------------------------------------------------------------------------------------------


def test_compare_leaves_all_that_a_report_needs(tables: Path) -> None:
    shown = read_gallery(tables)
    assert {task: len(samples) for task, samples in shown.items()} == {"gqa": 4, "pope": 4}
    origin = Origin.read(tables)
    assert (origin.reference, origin.difficulty) == ("visionzip", None)
    assert origin.facts["model"] == "micro"
    assert all(command.startswith("evocomp compare --keep 48,32") for command in origin.commands)


def test_the_report_shows_what_compare_showed(tables: Path, tmp_path: Path) -> None:
    said = done("report", tables, "--out", tmp_path / "new" / "one.html").stderr
    assert re.search(r"one\.html, \d\.\d MiB", said)
    data, again = data_of(tables / "report.html"), data_of(tmp_path / "new" / "one.html")
    assert sorted(map(str, again["runs"])) == sorted(map(str, data["runs"]))  # equals may change places
    assert again["pictures"] == data["pictures"] and again["layouts"] == data["layouts"]
    pyramid = data["runs"].index({"method": "pyramiddrop", "keep": 48})
    zipped = data["runs"].index({"method": "visionzip", "keep": 48})
    for task in data["tasks"]:
        for sample in task["samples"]:
            assert [stage[0] for stage in sample["kept"][pyramid]] == [1, 4, 8]
            ((depth, kept, merged, whole),) = sample["kept"][zipped]
            assert depth == -1 and data["masks"][kept] != data["masks"][merged] and whole == 1


def test_the_report_joins_folders_and_needs_neither_model_nor_samples(
    tables: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done(*GRID, "--methods", "grid", "--out", tmp_path / "more")
    moved = shutil.copytree(tables, tmp_path / "moved")
    shutil.rmtree(moved / "samples")
    monkeypatch.setattr("compress.models.loading.load", lambda *given, **options: 1 / 0)
    both = tmp_path / "both.html"
    done("report", moved, tmp_path / "more", "--title", "Both", "--samples", 2, "--out", both)
    page, data = both.read_text(), data_of(both)
    assert "<title>Both</title>" in page and page.count("evocomp compare") == 2
    assert {run["method"] for run in data["runs"]} == {"none", "visionzip", "pyramiddrop", "grid"}
    assert [len(task["samples"]) for task in data["tasks"]] == [1, 1]


def test_other_forms_are_files(tables: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done("report", tables, "--format", "md")
    done("report", tables, "--format", "latex")
    done("report", tables, "--format", "csv")
    done("report", tables, "--out", "named.csv")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "named.csv", "report.csv", "report.md", "report.tex",
    ]  # fmt: skip
    expected = sorted((tables / "table.csv").read_text().splitlines())  # equals may change places
    assert Path("report.csv").read_text() == Path("named.csv").read_text()
    assert sorted(Path("named.csv").read_text().splitlines()) == expected
    assert "| pyramiddrop | 48 |" in Path("report.md").read_text()
    assert r"\begin{tabular}" in Path("report.tex").read_text()


def test_mistakes_get_one_line(tables: Path, tmp_path: Path) -> None:
    for arguments, expected in (
        ((tmp_path,), "no results here; give folders that evocomp compare --out wrote"),
        ((tables, "--format", "md", "--out", tmp_path / "a.html"), "a report in md ends in .md, or"),
        ((tables, "--out", tmp_path / "a.docx"), "a name that ends in .html or .md or .csv or .tex"),
        ((tables, "--reference", "visonzip", "--out", tmp_path / "a.html"), "did you mean 'visionzip'"),
        ((tables, "--format", "pdf"), "'pdf' is not one of 'table', 'html', 'md', 'csv', 'latex'"),
    ):  # fmt: skip
        assert expected in refused("report", *arguments)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--json", "--format", "html"), "--json prints the results: leave out --format"),
        (("--json", "--out", "report.html"), "give a folder as --out"),
        (("--samples", 5, "--format", "md"), "--samples is for HTML pages"),
        (("--samples", 5, "--json"), "--samples is for HTML pages"),
    ],
)
def test_options_without_effect_are_refused(options: tuple[str, ...], said: str, tmp_path: Path) -> None:
    assert said in refused("report", tmp_path, *options)


def test_what_is_broken_is_named_with_what_to_do(tables: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(tables, tmp_path / "copy")
    (copy / "run.json").write_text("{")
    assert "it is not what evocomp compare --out writes; compare again" in refused("report", copy)
    shutil.copy(tables / "run.json", copy)
    (copy / "samples" / "gqa.parquet").write_bytes(b"PAR1")
    assert "gqa.parquet: unreadable" in refused("report", copy)


# Figures ----------------------------------------------------------------------------------------------------


def drawn(path: Path) -> tuple[int, int]:
    with Image.open(path) as picture:
        return picture.size


def test_kept_tokens_are_drawn_and_what_is_out_of_reach_is_said(tmp_path: Path) -> None:
    out = tmp_path / "new" / "kept.png"
    options = ("--methods", "none,grid,fastv", "--keep", "48,12", "--answer", "green")
    result = done("draw", "kept", *STAR, *options, "--out", out)
    assert "fastv at 12: keep=12" in result.stderr and "13" in result.stderr
    assert f"drawn in {out}" in result.stderr
    width, height = drawn(out)
    assert width > height > 200


def test_groups_are_drawn(tmp_path: Path) -> None:
    done("draw", "groups", *STAR, "--groupers", "vocabulary,grid", "--keep", 9, "--out", tmp_path / "a.svg")
    text = (tmp_path / "a.svg").read_text()
    assert text.startswith("<?xml") and text.count("<image ") == 3


def test_searches_are_drawn(tmp_path: Path) -> None:
    few = ("--strategies", "evolution,random", "--evaluations", 60, "--seeds", 2, "--keep", 16)
    result = done("draw", "search", *STAR, *few, "--out", tmp_path / "a.pdf")
    assert "search: 4 of 4 searches" in result.stderr
    assert (tmp_path / "a.pdf").read_bytes().startswith(b"%PDF")


def test_trainings_are_drawn(tmp_path: Path) -> None:
    (tmp_path / "curves.csv").write_text("epoch,rate,loss,score,seconds\n1,0.1,0.9,0.5,1\n2,0.1,0.7,0.8,1\n")
    done("draw", "training", tmp_path, "--out", tmp_path / "a.png")
    assert drawn(tmp_path / "a.png")[0] > 400


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("kept", "micro:3", " "), "the question is empty"),
        (("kept", *STAR, "--methods", "gird"), "did you mean 'grid'"),
        (("kept", *STAR, "--keep", "145"), "between 1 and the 144 visual tokens"),
        (("kept", *STAR, "--out", "{out}.gif"), "a name that ends in .png or .pdf or .svg"),
        (("groups", *STAR, "--groupers", "vocabluary"), "did you mean 'vocabulary'"),
        (("search", *STAR, "--strategies", "evolve"), "did you mean 'evolution'"),
        (("search", *STAR, "--answer", " "), "no answer to score"),
        (("training", "{out}"), "give folders that evocomp train --out wrote"),
    ],
)
def test_mistakes_in_figures_get_one_line(
    arguments: tuple[str, ...], expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert expected in refused("draw", *(one.format(out=tmp_path / "out") for one in arguments))
    assert list(tmp_path.iterdir()) == []


def test_the_app_refuses_before_it_starts() -> None:
    assert "did you mean 'grid'" in refused("app", "--methods", "gird")
    assert "'--port'" in refused("app", "--port", 0)
