"""Logs of lmms-eval become a comparison.

The folder `lmms-eval-0.7.3` holds logs of that version: its own GQA, MME, MVBench and Video-MME with
questions about our small worlds, answered by `micro` and `micro-video`. Of MME there are the first 12
questions, and of results.json what is read.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from PIL import Image

from bench.cli import main
from bench.evaluation.comparison import VANILLA
from bench.evaluation.graded import compare_runs
from bench.evaluation.lmms_eval_logs import LmmsEval
from bench.evaluation.stats import mcnemar
from bench.report.table import notes, table_rows

compared = partial(compare_runs, LmmsEval())
RECORDED = Path(__file__).parent / "lmms-eval-0.7.3"
RIGHT = [1, 1, 1, 0, 1, 1, 0, 1]
WORSE = [1, 0, 0, 0, 1, 0, 0, 0]


def write(
    folder: Path, credits: Sequence[float], task: str = "pope", date: str = "20261129_101500", *,
    form: Any = None, own: Mapping[str, float] | None = None, **more: Any,
) -> Path:  # fmt: skip
    """One run of one task, as `--log_samples` leaves it."""
    place = folder / "evocomp"
    place.mkdir(parents=True, exist_ok=True)
    form = form or (
        lambda credit: {"pope_accuracy": {"question_id": 1, "score": credit, "prediction": "yes"}}
    )
    lines = [
        {"doc_id": number, "target": "yes", "filtered_resps": ["yes" if credit else "no"],
         "doc_hash": hashlib.sha256(str(number).encode()).hexdigest(), "input": "Is there a dog?"}
        | form(credit)
        | more
        for number, credit in enumerate(credits)
    ]  # fmt: skip
    (place / f"{date}_samples_{task}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    told = {
        "results": {task: {f"{name},none": value for name, value in (own or {}).items()}},
        "higher_is_better": {task: {"loss": False}}, "model_name": "evocomp",
        "config": {"model_args": f"method={folder.name}"},
    }  # fmt: skip
    (place / f"{date}_results.json").write_text(json.dumps(told))
    return folder


@pytest.fixture
def runs(tmp_path: Path) -> dict[str, Path]:
    return {"untouched": write(tmp_path / "untouched", RIGHT), "fastv": write(tmp_path / "fastv", WORSE)}


def images(folder: Path, colors: Sequence[str]) -> Path:
    """A data set in lmms-lab's layout with an image per row."""
    rows = []
    for color in colors:
        file = BytesIO()
        Image.new("RGB", (4, 4), color).save(file, "PNG")
        rows.append({"image": {"bytes": file.getvalue(), "path": ""}})
    folder.mkdir()
    pq.write_table(pa.Table.from_pylist(rows), folder / "test-00000-of-00001.parquet")
    return folder


def test_recorded_logs_of_images_give_lmms_eval_s_scores() -> None:
    runs = {name: RECORDED / "images" / name for name in ("none", "fastv")}
    found, origin = compared(runs, difficulty="fastv")
    assert [row.scores for row in found.rows] == [{"gqa": 100, "mme": 100}, {"gqa": 90, "mme": 100}]
    assert found.metrics == {"gqa": "exact_match", "mme": "mme_perception_score"}
    assert [(one.easy, one.hard) for one in found.difficulty] == [(36, 4), (12, 0)]
    apart = [line for line in notes(found) if "own score" in line]
    assert [line[:13] for line in apart] == ["mme of none: ", "mme of fastv:"]  # MME's points are no mean
    assert origin.facts["fastv: arguments"] == "pretrained=micro,method=fastv,keep=36"
    assert not any("unknown" in value for value in origin.facts.values())
    outcome = found.outcomes["fastv", 0, "gqa"]
    assert len(outcome.predictions) == 40 and all(word.isalpha() for word in outcome.predictions)


def test_recorded_logs_of_videos_give_lmms_eval_s_scores() -> None:
    runs = {name: RECORDED / "videos" / name for name in ("none", "words-cover")}
    found, _ = compared(runs)
    scores = [{name: round(score, 2) for name, score in row.scores.items()} for row in found.rows]
    assert [one["videomme"] for one in scores] == [66.67, 77.78]
    assert [one["mvbench_moving_direction"] for one in scores] == [83.33, 83.33]
    assert not any("own score" in line for line in notes(found))  # it is in percent there
    images = found.outcomes["none", 0, "videomme"].images
    assert len(images) == 18 and all(name.startswith("clip") for name in images)  # the task's cluster_key
    assert any("an image of its own (mvbench_moving_direction)" in line for line in notes(found))


def test_runs_without_a_task_in_common_are_refused() -> None:
    with pytest.raises(ValueError, match="videos and none have no task in common: mvbench_.* and gqa, mme"):
        compared({"none": RECORDED / "images" / "none", "videos": RECORDED / "videos" / "none"})


def test_scores_shares_and_tests_are_those_of_the_questions(runs: dict[str, Path]) -> None:
    found, origin = compared(runs, reference="fastv")
    whole, row = found.rows
    assert (whole.method, whole.scores, row.method, row.scores) == (
        VANILLA,
        {"pope": 75},
        "fastv",
        {"pope": 25},
    )
    assert row.average == pytest.approx(100 / 3)
    assert row.vanilla and row.vanilla.gap and row.vanilla.gap.difference == pytest.approx(-200 / 3)
    expected = mcnemar(WORSE, RIGHT, [str(n) for n in range(8)])
    assert (row.vanilla.tasks["pope"].p, row.vanilla.tasks["pope"].worse) == (expected.p, 4)
    assert row.tokens is row.flops is row.left is None
    assert origin.facts["fastv: arguments"] == "method=fastv"


def test_questions_about_one_image_change_sides_together(runs: dict[str, Path], tmp_path: Path) -> None:
    """With two questions to each image, four discordant questions lie on three images: p is 1/4, not 1/8."""
    folder = images(tmp_path / "data", ["red", "blue", "blue", "red", "green", "green", "white", "white"])
    alone, _ = compared(runs)
    found, _ = compared(runs, images={"pope": folder})
    names = found.outcomes["fastv", 0, "pope"].images
    assert len(set(names)) == 4 and names[0] == names[3] != names[1] == names[2]
    assert found.rows[1].vanilla and alone.rows[1].vanilla
    expected = mcnemar(WORSE, RIGHT, ["r", "b", "b", "r", "g", "g", "w", "w"])
    assert found.rows[1].vanilla.tasks["pope"].p == expected.p > alone.rows[1].vanilla.tasks["pope"].p
    assert any("intervals are too narrow" in line for line in notes(alone))
    assert not any("intervals are too narrow" in line for line in notes(found))


def test_images_count_by_content_and_where_there_is_none_by_name(
    runs: dict[str, Path], tmp_path: Path
) -> None:
    """lmms-lab's POPE has a column `image_source` before the images, GQA's questions have only `imageId`."""
    pictures = pq.read_table(images(tmp_path / "data", ["red", "blue", "blue", "red"] * 2))
    both = tmp_path / "both.parquet"
    pq.write_table(pictures.add_column(0, "image_source", pa.array(map(str, range(8)))), both)
    names = compared(runs, images={"pope": both})[0].outcomes["fastv", 0, "pope"].images
    assert len(set(names)) == 2 and names[0] == names[3] != names[1]
    pq.write_table(pa.table({"imageId": ["n1", "n2", "n2", "n1", "n3", None, None, "n4"]}), both)
    names = compared(runs, images={"pope": both})[0].outcomes["fastv", 0, "pope"].images
    assert len(set(names)) == 6 and names[0] == names[3] and names[1] == names[2] and names[5] != names[6]
    pq.write_table(pa.table({"question": ["what ?"] * 8}), both)
    with pytest.raises(ValueError, match="both.parquet: there is no column of images or videos"):
        compared(runs, images={"pope": both})


def test_questions_about_one_video_are_known_where_the_task_names_its_cluster(tmp_path: Path) -> None:
    def form(credit: float) -> dict[str, Any]:
        return {"videomme_perception_score": {"score": credit, "videoID": "abc"}}

    runs = {name: write(tmp_path / name, RIGHT, "videomme", form=form) for name in ("a", "b")}
    for folder in runs.values():
        (path,) = folder.rglob("*_results.json")
        told = json.loads(path.read_text()) | {"configs": {"videomme": {"cluster_key": "videoID"}}}
        path.write_text(json.dumps(told))
    found, _ = compared(runs)
    assert set(found.outcomes["b", 0, "videomme"].images) == {"abc"}
    assert not any("intervals are too narrow" in line for line in notes(found))


def test_a_fifo_as_images_is_refused(runs: dict[str, Path], tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "images.parquet")
    with pytest.raises(ValueError, match="images.parquet: this is a FIFO"):
        compared(runs, images={"pope": tmp_path / "images.parquet"})


def test_too_few_images_are_refused(runs: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--images pope: it has 2 rows, but none for question 2 of the log"):
        compared(runs, images={"pope": images(tmp_path / "data", ["red", "blue"])})


def test_hard_questions_are_those_that_a_run_misses(runs: dict[str, Path], tmp_path: Path) -> None:
    runs["downsample"] = write(tmp_path / "down", [1, 1, 0, 0, 1, 1, 0, 0])
    found, _ = compared(runs, difficulty="downsample")
    (one,) = found.difficulty
    assert (one.easy, one.hard) == (4, 4) and one.scores == {VANILLA: 50, "fastv": 0, "downsample": 0}


@pytest.mark.parametrize(
    ("form", "score"),
    [
        (lambda credit: {"exact_match": float(credit)}, 75),
        (lambda credit: {"relaxed_overall": float(credit), "relaxed_human_split": 0.0}, 75),
        (lambda credit: {"gpt": {"question_id": 1}, "anls": 0.5 * credit}, 37.5),
        (lambda credit: {"acc": bool(credit), "submission": {"score": 9}}, 75),
    ],
)
def test_metrics_are_numbers_or_have_a_score(form: Any, score: float, tmp_path: Path) -> None:
    folders = {name: write(tmp_path / name, RIGHT, form=form) for name in ("a", "b")}
    found, _ = compared(folders)
    assert found.rows[0].scores == {"pope": score}


def test_another_metric_may_be_chosen_if_more_is_better_and_it_is_a_share(tmp_path: Path) -> None:
    def form(credit: float) -> dict[str, Any]:
        return {"points": 3 * credit, "acc": credit, "loss": 1 - credit}

    folders = {name: write(tmp_path / name, RIGHT, form=form) for name in ("a", "b")}
    with pytest.raises(
        ValueError, match="points is from 0 to 3.*--metric pope=NAME .there are points, acc, loss"
    ):
        compared(folders)
    with pytest.raises(ValueError, match="loss is from 0 to 1.*more must be better"):
        compared(folders, metrics={"pope": "loss"})
    with pytest.raises(ValueError, match="unknown metric 'f1'"):
        compared(folders, metrics={"pope": "f1"})
    assert compared(folders, metrics={"pope": "acc"})[0].metrics == {"pope": "acc"}


def test_the_harness_s_own_score_is_told_where_it_is_no_mean(tmp_path: Path) -> None:
    folders = {
        name: write(tmp_path / name, RIGHT, own={"pope_accuracy": own})
        for name, own in (("a", 0.75), ("b", 0.8571))
    }
    lines = [line for line in notes(compared(folders)[0]) if "lmms-eval's own score" in line]
    assert lines == [
        "pope of b: the mean of pope_accuracy is 75.00 %, lmms-eval's own score 0.8571, which it does not "
        "compute as a mean."
    ]


def test_own_scores_may_be_in_percent(tmp_path: Path) -> None:
    folders = {
        name: write(tmp_path / name, RIGHT, own={"pope_accuracy": own})
        for name, own in (("a", 75), ("b", 85))
    }
    (line,) = [line for line in notes(compared(folders)[0]) if "lmms-eval's own score" in line]
    assert "pope of b" in line and "own score 85" in line


def test_a_run_among_others_is_named_by_its_results(tmp_path: Path) -> None:
    """Two calls with one --output_path lie in one folder."""
    write(tmp_path / "fastv", RIGHT, date="20261129_101500")
    write(tmp_path / "fastv", WORSE, date="20261129_111500")
    first, second = sorted((tmp_path / "fastv").rglob("*_results.json"))
    found, _ = compared({"a": first, "b": second})
    assert [row.scores["pope"] for row in found.rows] == [75, 25]


def test_newest_logs_of_different_models_are_refused(runs: dict[str, Path]) -> None:
    write(runs["fastv"], RIGHT, "gqa", date="20261130_101500")
    path = runs["fastv"] / "evocomp" / "20261130_101500_results.json"
    path.write_text(path.read_text().replace("method=fastv", "method=random"))
    with pytest.raises(
        ValueError, match="different runs .pope: method=fastv; gqa: method=random.*results.json"
    ):
        compared(runs)


def test_other_questions_are_refused(runs: dict[str, Path], tmp_path: Path) -> None:
    runs["short"] = write(tmp_path / "short", RIGHT[:5])
    with pytest.raises(
        ValueError, match="untouched and short did not answer the same questions: 8 and 5, 5 in"
    ):
        compared(runs)
    runs["short"] = write(tmp_path / "other", RIGHT, doc_hash="x")
    with pytest.raises(ValueError, match="the doc_hash of question 0 differs"):
        compared(runs)


def test_other_prompts_are_refused_unless_mixed(runs: dict[str, Path], tmp_path: Path) -> None:
    runs["short"] = write(tmp_path / "short", RIGHT, input="Is there a dog? Answer:")
    with pytest.raises(ValueError, match="other words .question 0: 'Is there a dog.' and .* add --mixed"):
        compared(runs)
    found, _ = compared(runs, mixed=True)
    assert any("short was asked 8 questions in other words than untouched" in line for line in notes(found))


def test_the_newest_log_counts_and_missing_tasks_are_dashes(runs: dict[str, Path]) -> None:
    write(runs["untouched"], [1] * 8, date="20261130_101500")
    write(runs["untouched"], RIGHT, "gqa", form=lambda credit: {"exact_match": credit})
    found, _ = compared(runs)
    assert found.rows[0].scores == {"gqa": 75, "pope": 100}
    assert found.rows[1].scores == {"pope": 25} and found.rows[1].average is None
    assert any("fastv at 0: not run (gqa)" in line for line in notes(found))


def test_broken_logs_are_refused(runs: dict[str, Path]) -> None:
    (path,) = runs["fastv"].rglob("*.jsonl")
    line = path.read_text().splitlines()[0]
    path.write_text(f"{line}\n{line}\n")
    with pytest.raises(ValueError, match="line 2: doc_id 0 is there twice"):
        compared(runs)
    for place, told in ((None, "null"), (True, "true"), ("x" * 5000, "'xxx")):
        path.write_text(json.dumps({"target": "yes", "doc_id": place}))
        with pytest.raises(ValueError, match=f"line 1: doc_id is {told}") as caught:
            compared(runs)
        assert len(str(caught.value)) < 400
    path.unlink()
    with pytest.raises(ValueError, match="no logs here"):
        compared(runs)
    with pytest.raises(ValueError, match="one run alone"):
        compared({"untouched": runs["untouched"]})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"results": {"pope": []}}, "results.pope is a list of 0, but it must be settings by name"),
        ({"higher_is_better": {"pope": ["x"]}}, "higher_is_better.pope is a list of 1"),
        ({"config": "x"}, "config is 'x', but it must be settings by name"),
        ({"config": {"model": [1]}}, "config.model is a list of 1, but it must be a text"),
        ({"configs": {"pope": {"cluster_key": {}}}}, "configs.pope.cluster_key is a set of settings"),
        ({"model_name": 3}, "model_name is 3, but it must be a text"),
    ],
)
def test_results_of_another_form_are_refused_by_field(
    change: dict[str, Any], said: str, runs: dict[str, Path]
) -> None:
    (path,) = runs["fastv"].rglob("*_results.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError) as caught:
        compared(runs)
    assert f"{path}: {said}" in str(caught.value)


def test_the_command_prints_and_writes_what_it_does_of_our_own_results(
    runs: dict[str, Path], tmp_path: Path
) -> None:
    call = ["report", *map(str, runs.values()), "--from-lmms", "--reference", "fastv"]
    told = CliRunner().invoke(main, [*call, "--json"], catch_exceptions=False)
    assert told.exit_code == 0
    rows = json.loads(told.stdout)["summary"]
    assert [row["method"] for row in rows] == [VANILLA, "fastv"]
    for name in ("page.html", "table.md", "table.csv", "table.tex"):
        wrote = CliRunner().invoke(main, [*call, "--out", str(tmp_path / name)], catch_exceptions=False)
        assert wrote.exit_code == 0, wrote.output
        assert "fastv" in (tmp_path / name).read_text()
    wrote = CliRunner().invoke(main, [*call, "--format", "table", "--out", str(tmp_path / "all")])
    assert wrote.exit_code == 0 and (tmp_path / "all" / "results.json").is_file()
    assert table_rows(compared(runs)[0])[1][:3] == ["fastv", "–", "25.0"]


def test_runs_may_be_named(runs: dict[str, Path]) -> None:
    named = [f"{name}-7b={path}" for name, path in runs.items()]
    told = CliRunner().invoke(main, ["report", *named, "--from-lmms", "--json"], catch_exceptions=False)
    assert [row["method"] for row in json.loads(told.stdout)["summary"]] == [VANILLA, "fastv-7b"]
    told = CliRunner().invoke(main, ["report", *map(str, [runs["fastv"]] * 2), "--from-lmms", "--json"])
    assert told.exit_code == 2 and "named twice" in told.output


def test_a_metric_that_is_not_a_number_is_refused(tmp_path: Path) -> None:
    """JSON as Python writes it has NaN, which is neither below 0 nor above 1."""
    whole, broken = write(tmp_path / "a", [1, 0, 1]), write(tmp_path / "b", [1, float("nan"), 1])
    with pytest.raises(ValueError, match="pope_accuracy of b is not always from 0 to 1"):
        compared({"a": whole, "b": broken})
    with pytest.raises(ValueError, match="pope: pope_accuracy of question 1 is not a number"):
        compared({"b": broken, "a": whole})
    huge = write(tmp_path / "huge", [1, 10**400, 1], own={"pope_accuracy": 10**400})
    with pytest.raises(ValueError, match="pope_accuracy of huge is not always from 0 to 1"):
        compared({"a": whole, "huge": huge})
