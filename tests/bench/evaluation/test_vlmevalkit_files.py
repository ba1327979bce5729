"""Files of VLMEvalKit become a comparison.

The folder `vlmevalkit-0.2rc1` was written by VLMEvalKit itself (version 0.2rc1, 2026-08-18): its graders and
writers over made-up answers to questions of ours.
"""

from __future__ import annotations

import json
import os
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from bench.cli import main
from bench.evaluation.comparison import VANILLA
from bench.evaluation.graded import compare_runs
from bench.evaluation.vlmevalkit_files import VLMEvalKit
from bench.report.table import notes
from bench.tasks.spreadsheet import workbook

compared = partial(compare_runs, VLMEvalKit())
RECORDED = Path(__file__).parent / "vlmevalkit-0.2rc1"
RIGHT = [1, 1, 1, 0]
WORSE = [1, 0, 0, 0]


def write(
    folder: Path, grades: Any, dataset: str = "MMStar", how: str = "exact_matching_result",
    column: str = "hit", **more: Any,
) -> Path:  # fmt: skip
    """A folder outputs/MODEL with one graded benchmark."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [
        {"index": n, "question": f"what {n} ?", "answer": "A", "prediction": "A" if grade else "B"}
        | {column: grade}
        | {name: one(n) if callable(one) else one for name, one in more.items()}
        for n, grade in enumerate(grades)
    ]  # fmt: skip
    (folder / f"{folder.name}_{dataset}_{how}.json").write_text(json.dumps(rows))
    (folder / f"{folder.name}_{dataset}.json").write_text("[]")
    return folder


@pytest.fixture
def runs(tmp_path: Path) -> dict[str, Path]:
    return {name: write(tmp_path / name, grades) for name, grades in (("whole", RIGHT), ("fastv", WORSE))}


def graded(folder: Path) -> Path:
    (path,) = folder.glob("*_result.json")
    return path


def test_recorded_files_give_the_scores_that_vlmevalkit_printed() -> None:
    found, origin = compared({name: RECORDED / name for name in ("micro", "micro-fastv")})
    assert [row.method for row in found.rows] == [VANILLA, "micro-fastv"]
    told = json.loads((RECORDED / "printed.json").read_text())  # of POPE its `acc`
    for row, name in zip(found.rows, ("micro", "micro-fastv"), strict=True):
        assert row.scores == pytest.approx(told[name]), name
    assert origin.facts["micro-fastv: model"] == "micro-fastv"
    outcome = found.outcomes["micro-fastv", 0, "POPE"]
    assert len(outcome.images) == 2 * len(set(outcome.images))  # two questions about an image
    assert len(found.outcomes["micro-fastv", 0, "MMBench_DEV_EN"].samples) == 8  # circular: a row per group


def test_pope_s_own_score_is_no_mean() -> None:
    found, _ = compared({name: RECORDED / name for name in ("micro", "micro-fastv")})
    lines = [line for line in notes(found) if "own score" in line]
    assert lines and all(line.startswith("POPE of ") and "VLMEvalKit's own score" in line for line in lines)


def test_scores_of_splits_are_not_taken_for_that_of_all_questions(runs: dict[str, Path]) -> None:
    sums = '"split","Overall"\n"dev","0.5"\n"test","1.0"\n'
    (runs["whole"] / "whole_MMStar_acc.csv").write_text(sums)
    assert not any("own score" in line for line in notes(compared(runs)[0]))
    (runs["whole"] / "whole_MMStar_acc.csv").write_text(sums.replace("dev", "none"))
    assert any("MMStar of whole: the mean of hit is 75.00 %" in line for line in notes(compared(runs)[0]))


@pytest.mark.parametrize(
    ("dataset", "match", "score"),
    [
        ("TextVQA_VAL", [1.0, 0.5], 75),
        ("GQA_TestDev_Balanced", [1.0], 100),
        ("ChartQA_TEST", [False, True], 100),
        ("DocVQA_VAL", [0.2, 0.9], 80),
        ("InfoVQA_VAL", [0.6], 0),
        ("TextVQA_VAL", ["np.float64(1.0)", "np.float64(0.0)"], 50),
    ],
)
def test_grades_of_several_answers_count_as_in_vlmevalkit(
    dataset: str, match: list[Any], score: float, tmp_path: Path
) -> None:
    """Its column eval_score is the mean even of distances."""
    told = str(match).replace("'", "")
    folders = {
        name: write(tmp_path / name, [0.5] * 2, dataset, "results", "eval_score", eval_match=told)
        for name in ("a", "b")
    }
    assert compared(folders)[0].rows[0].scores == {dataset: pytest.approx(score)}


def test_files_are_read_in_every_format_and_indices_are_numbers_or_texts(tmp_path: Path) -> None:
    folders = {name: write(tmp_path / name, RIGHT) for name in ("a", "b", "c")}
    rows = [["index", "question", "answer", "prediction", "hit"]]
    rows += [[n, f"what {n} ?", "A", "A" if hit else "B", hit] for n, hit in enumerate(RIGHT)]  # type: ignore[list-item]
    for name in ("b", "c"):
        graded(folders[name]).unlink()
    path = folders["b"] / "b_MMStar_exact_matching_result.xlsx"
    path.write_bytes(workbook(rows[0], rows[1:]))
    path = folders["c"] / "c_MMStar_exact_matching_result.tsv"
    path.write_text("".join("\t".join(map(str, row)) + "\n" for row in rows))
    found, _ = compared(folders)
    assert [row.scores["MMStar"] for row in found.rows] == [75, 75, 75]
    assert found.outcomes["b", 0, "MMStar"].predictions == ("A", "A", "A", "B")


def test_the_newest_run_counts_and_a_linked_file_before_all(tmp_path: Path) -> None:
    model = tmp_path / "a"
    for date, grades in (("T20250101_Gabc", RIGHT), ("T20260101-101112", WORSE)):
        write(model / "new" / "a", grades)
        (model / "new" / "a").rename(model / date)
    write(tmp_path / "b", RIGHT)
    assert compared({"a": model, "b": tmp_path / "b"})[0].rows[0].scores == {"MMStar": 25}
    older = graded(model / "T20250101_Gabc")
    assert compared({"a": older, "b": tmp_path / "b"})[0].rows[0].scores == {"MMStar": 75}
    shutil.copy(older, model)
    assert compared({"a": model, "b": tmp_path / "b"})[0].rows[0].scores == {"MMStar": 75}


def test_images_come_from_the_benchmark_s_table(runs: dict[str, Path], tmp_path: Path) -> None:
    """A row without an image of its own names the row that has it."""
    table = tmp_path / "MMStar.tsv"
    table.write_text(f"index\timage\n0\t{'A' * 90}\n1\t0\n2\t{'B' * 90}\n3\t{'A' * 90}\n")
    alone, _ = compared(runs)
    found, _ = compared(runs, images={"MMStar": table})
    names = found.outcomes["fastv", 0, "MMStar"].images
    assert names[0] == names[1] == names[3] != names[2]
    assert any("intervals are too narrow" in line for line in notes(alone))
    assert not any("intervals are too narrow" in line for line in notes(found))
    table.write_text(f"index\timage\n0\t{'A' * 90}\n")
    with pytest.raises(ValueError, match="--images MMStar: it has 1 rows, but none for question 1"):
        compared(runs, images={"MMStar": table})


def test_benchmarks_without_grades_are_told(runs: dict[str, Path]) -> None:
    (runs["fastv"] / "fastv_OCRBench.xlsx").write_bytes(b"")
    (runs["fastv"] / "fastv_OCRBench_score.json").write_text('{"Final Score": 520}')
    found, _ = compared(runs)
    assert "fastv: left out, its files hold no grade of each question: OCRBench." in notes(found)
    graded(runs["fastv"]).unlink()
    with pytest.raises(ValueError, match="fastv: no graded questions here: VLMEvalKit writes .*JUDGE_result"):
        compared(runs)
    with pytest.raises(ValueError, match="fastv_OCRBench.xlsx: no graded questions here"):
        compared(runs | {"fastv": runs["fastv"] / "fastv_OCRBench.xlsx"})


def test_what_cannot_be_compared_is_refused(runs: dict[str, Path], tmp_path: Path) -> None:
    other = write(tmp_path / "other", RIGHT, question="where ?")
    with pytest.raises(ValueError, match="MMStar: whole and other .* the question of question 0 differs"):
        compared(runs | {"other": other})
    judged = write(tmp_path / "judged", RIGHT, how="openai_result")
    with pytest.raises(ValueError, match="whole was graded by exact_matching_result, and judged by openai_r"):
        compared(runs | {"judged": judged})
    write(tmp_path / "judged", RIGHT)
    with pytest.raises(ValueError, match="MMStar is graded in .*exact_matching_result.json.*keep the one"):
        compared(runs | {"judged": judged})
    renamed = tmp_path / "renamed"
    runs["fastv"].rename(renamed)
    with pytest.raises(ValueError, match="MODEL_DATASET.*this one is in renamed: keep both names"):
        compared(runs | {"fastv": renamed})


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({"hit": -1}, "row 2: hit is -1, but it must be from 0 to 1"),
        ({"hit": None}, "row 2: hit is None, but it must be a number"),
        ({"hit": "yes"}, "row 2: hit is 'yes'"),
        ({"hit": 10**400}, "row 2: hit is 1000"),
        ({"hit": "x" * 5000}, "row 2: hit is 'xxx"),
        ({"index": None}, "row 2: there is no index"),
        ({"index": 1}, "row 3: the index 1 is there twice"),
    ],
)
def test_broken_rows_are_named(row: dict[str, Any], why: str, runs: dict[str, Path]) -> None:
    rows = json.loads(graded(runs["fastv"]).read_text())
    rows[0] |= row
    graded(runs["fastv"]).write_text(json.dumps(rows))
    with pytest.raises(ValueError, match=f"fastv_MMStar_exact_matching_result.json, {why}") as caught:
        compared(runs)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("content", ["[]", "{}", '[{"index": 1}]'])
def test_files_without_grades_are_no_graded_files(content: str, runs: dict[str, Path]) -> None:
    graded(runs["fastv"]).write_text(content)
    with pytest.raises(ValueError, match="fastv: no graded questions here"):
        compared(runs)


def test_broken_files_are_named(runs: dict[str, Path]) -> None:
    graded(runs["fastv"]).write_text("[")
    with pytest.raises(ValueError, match="fastv_MMStar_exact_matching_result.json"):
        compared(runs)


def test_a_fifo_as_a_workbook_is_refused(runs: dict[str, Path]) -> None:
    path = graded(runs["fastv"])
    path.unlink()
    os.mkfifo(path.with_suffix(".xlsx"))
    with pytest.raises(ValueError, match="this is a FIFO"):
        compared(runs)


def test_lists_that_are_no_grades_are_named(tmp_path: Path) -> None:
    folders = {name: write(tmp_path / name, [1], "GQA", "results", "eval_match") for name in ("a", "b")}
    with pytest.raises(ValueError, match="row 2: eval_match is 1, but it must be a list of numbers"):
        compared(folders)
    write(tmp_path / "b", [[10**400]], "GQA", "results", "eval_match")
    write(tmp_path / "a", [[1]], "GQA", "results", "eval_match")
    with pytest.raises(ValueError, match="row 2: eval_match is .1000.* must be a list of numbers"):
        compared(folders)


def test_the_command_prints_and_writes_a_page(tmp_path: Path) -> None:
    call = ["report", *(str(RECORDED / name) for name in ("micro", "micro-fastv")), "--from-vlmevalkit"]
    told = CliRunner().invoke(main, [*call, "--json"], catch_exceptions=False)
    assert [row["method"] for row in json.loads(told.stdout)["summary"]] == [VANILLA, "micro-fastv"]
    page = tmp_path / "page.html"
    wrote = CliRunner().invoke(main, [*call, "--out", str(page)], catch_exceptions=False)
    assert wrote.exit_code == 0 and "micro-fastv" in page.read_text()


@pytest.mark.parametrize("order", [1, -1])
def test_two_suites_in_one_report_are_refused(order: int) -> None:
    suites = ["--from-lmms", "--from-vlmevalkit"][::order]
    told = CliRunner().invoke(main, ["report", str(RECORDED / "micro"), *suites, "--json"])
    assert told.exit_code == 2 and "make a report of each" in told.stderr
