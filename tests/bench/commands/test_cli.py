"""Every command through click's runner on the shipped micro model, and every mistake a user can make."""

from __future__ import annotations

import csv
import errno
import json
import os
import shlex
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from PIL import Image
from transformers import LlamaConfig

from baselines import METHODS
from bench.cli import COMMANDS, FORMER, GROUPS, LISTS, main
from bench.commands.options import Amount
from bench.console import _bar, _lines
from bench.evaluation.compressors import buildable
from bench.evaluation.evaluate import answer, evaluate
from bench.evaluation.opening import open_image
from bench.tasks import TASKS
from bench.tasks.mixture import training_samples
from compress.compressor.network import CONFIG, Compressor
from compress.labels import read_labels
from compress.models.loading import MODELS, load
from evosearch import GROUPERS
from evosearch.registry import specs
from tests.cli import parsed, printed, refused, run

STAR = ("micro:3", "what color is the star ?")  # the star of this scene is green
FEW = ("--evaluations", 48)
QUICK = ("--epochs", 2, "--validate", "none", "--loss", "ce")


def content(folder: Path) -> dict[str, bytes]:
    """All files below a folder."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(scope="session")
def labels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli") / "labels"
    printed("label", "--out", folder, "--samples", 4, *FEW)
    return folder


@pytest.fixture(scope="session")
def compressor(labels: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli") / "compressor"
    printed("train", "--labels", labels, "--out", folder, *QUICK)
    return folder


# Lists and help -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("plural", LISTS)
def test_lists_have_a_line_for_every_entry(plural: str) -> None:
    entries = parsed("list", plural)
    assert len({one["name"] for one in entries}) == len(entries) > 0
    assert all(len(one["about"]) > 10 and "\n" not in one["about"] for one in entries)
    table = printed("list", plural)
    assert all(one["name"] in table for one in entries)


def test_lists_name_what_the_paper_names() -> None:
    names = {plural: [one["name"] for one in parsed("list", plural)] for plural in LISTS}
    assert {"none", "random", "grid", "fastv", "visionzip", "evocomp"} <= set(names["methods"])
    assert {"gqa", "mmbench", "mmbench-cn", "pope", "vqav2", "vizwiz", "textvqa"} <= set(names["tasks"])
    assert {"best", "random", "dpc-knn", "elite", "attribution"} <= set(names["kinds"])
    assert {"ghm+cos", "ghm", "ce+cos", "focal+cos", "ce"} <= set(names["losses"])


def test_lists_say_which_options_the_commands_fill_in() -> None:
    (evocomp,) = (one for one in parsed("list", "methods") if one["name"] == "evocomp")
    assert evocomp["options"] == {"depth": "0", "compressor": "automatic"}


def test_models_are_described_by_their_sizes() -> None:
    about = {one["name"]: one["about"] for one in parsed("list", "models")}
    assert "1.6 M parameters, 144 visual tokens of 96 x 96 pixels, 12 decoder layers" in about["micro"]
    assert "744 visual tokens of 192 x 192 pixels" in about["micro-next"]


def test_help_names_every_command_under_its_heading() -> None:
    text = printed("--help")
    assert all(f"\n  {name} " in text for name in COMMANDS)
    assert not any(f"\n  {name} " in text for name in FORMER)
    places = [text.index(f"\n{heading}:\n") for heading in GROUPS]
    assert places == sorted(places)
    assert text.index("\nMeasure speed:") < text.index("\n  bench ") < text.index("\nLook:")


@pytest.mark.parametrize("name", LISTS)
def test_a_list_is_found_under_its_former_name(name: str) -> None:
    old, new = run(name, "--json"), run("list", name, "--json")
    assert old.exit_code == 0 and old.stdout == new.stdout
    assert old.stderr == (
        f"evocomp {name} is now evocomp list {name}; the old spelling will be removed in the next release\n"
    )


def test_former_spellings_of_labels_do_what_the_new_ones_do(labels: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    printed("label", "--out", other, "--samples", 2, "--start", 100, *FEW)
    for old, new in (
        ((labels, "--json"), ("show", labels, "--json")),
        (("--json", labels), ("show", labels, "--json")),
        ((labels, "--quarantine"), ("quarantine", labels)),
        (("--audit=2", labels), ("audit", labels, "--samples=2")),
        ((labels, other, "--merge", "{}/m"), ("merge", labels, other, "--out", "{}/m")),
        ((labels, "--export", "{}/x"), ("export", labels, "--out", "{}/x")),
    ):
        first, second = (
            run("labels", *(str(one).format(tmp_path / place) for one in arguments))
            for place, arguments in (("old", old), ("new", new))
        )
        assert first.exit_code == second.exit_code == 0, first.stderr
        assert first.stdout.replace("/old/", "/new/") == second.stdout
        said = f"evocomp labels FOLDERS is now evocomp labels {new[0]} FOLDERS; "
        assert first.stderr.startswith(said) and said not in second.stderr


def test_the_former_table_is_the_report_of_that_format(tmp_path: Path) -> None:
    compared = tmp_path / "compared"
    printed("compare", "--keep", 32, "--tasks", "gqa", "-n", 4, "--methods", "grid", "--out", compared)
    old, new = run("table", compared), run("report", compared, "--format", "table")
    assert old.exit_code == 0 and old.stdout == new.stdout
    assert old.stderr.startswith("evocomp table is now evocomp report --format table; ")


# Commands -------------------------------------------------------------------------------------------------


def test_ask_answers_on_stdout_and_draws_the_kept_tokens(tmp_path: Path) -> None:
    picture = tmp_path / "new" / "kept.png"
    result = run("ask", *STAR, "--method", "visionzip", "--out", picture)
    assert result.stdout == "green\n"
    assert "16 of 144 visual tokens" in result.stderr
    with Image.open(picture) as drawn:
        assert drawn.size == (384, 384)  # 12 x 12 tokens, 32 pixels each


def test_ask_reads_image_files_and_prints_json(tmp_path: Path) -> None:
    open_image("micro:3").save(tmp_path / "scene.png")
    answer = parsed("ask", tmp_path / "scene.png", STAR[1], "--method", "grid", "--keep", 48)
    assert answer["answer"] == run("ask", *STAR, "--method", "grid", "--keep", 48).stdout.strip()
    assert answer["entering"] == [48] * 12
    assert len(answer["kept"]) == 48
    assert answer["picture"] is None


def test_ask_uses_a_trained_compressor(compressor: Path) -> None:
    answer = parsed("ask", *STAR, "--compressor", compressor, "--keep", 20)
    assert answer["method"] == "evocomp"
    assert answer["kept"] == sorted(set(answer["kept"]))
    assert len(answer["kept"]) == 20


def test_ask_says_which_words_the_model_does_not_know() -> None:
    result = run("ask", "micro:3", "what zebra is this ?", "--method", "none")
    assert result.exit_code == 0
    assert "no word for zebra" in result.stderr


def test_draw_kept_gives_each_question_a_row(tmp_path: Path) -> None:
    sizes = []
    for count in (1, 2):
        asked = ["what color is the star ?", "is there a red ring ?"][:count]
        picture = tmp_path / f"{count}.png"
        run("draw", "kept", "micro:3", *asked, "--methods", "grid", "--keep", 16, "--out", picture)
        with Image.open(picture) as drawn:
            sizes.append(drawn.size)
    assert sizes[1][0] == sizes[0][0] and sizes[1][1] > 1.5 * sizes[0][1]
    line = refused("draw", "kept", "micro:3", *asked, "--answer", "red", "--out", picture)
    assert line == "evocomp: --answer is for one question: leave it out"


def test_search_prints_its_trace_and_draws(tmp_path: Path) -> None:
    table = printed("search", *STAR, *FEW, "--keep", 8, "--out", tmp_path / "found")
    assert '-> "green"' in table
    assert "evaluations" in table
    kept = table.strip().splitlines()[-1].split()
    assert kept[0] == "kept"
    assert len(set(kept[1:])) == 8
    assert sorted(content(tmp_path / "found")) == ["groups.png", "kept.png", "trace.png"]


def test_search_improves_and_is_repeatable() -> None:
    command = ("search", *STAR, "--answer", "red", "--evaluations", 150, "--seed", 5)
    found, again = parsed(*command), parsed(*command)
    best = [row["best"] for row in found["trace"]]
    assert best == sorted(best, reverse=True)
    assert best[-1] == found["loss"] < best[0]
    assert found["evaluations"] <= 150
    assert len(found["kept"]) == 16
    assert (found["kept"], found["loss"]) == (again["kept"], again["loss"])


def test_search_shows_brackets_and_colons_as_they_are() -> None:
    assert '"is [/red] a :star: ?"' in printed("search", "micro:3", "is [/red] a :star: ?", *FEW)


def test_label_writes_a_store_and_a_rerun_adds_only_what_is_missing(labels: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(labels, tmp_path / "labels")
    before = content(folder)
    result = run("label", "--out", folder, "--samples", 4, *FEW)
    assert content(folder) == before
    assert "4 of 4 samples" in result.stderr
    assert "4 of 4" not in result.stdout
    summary = parsed("label", "--out", folder, "--samples", 5, *FEW)
    assert (summary["samples"], summary["kind"], summary["keep"]) == (5, "best", 16)
    after = content(folder)
    assert len(after) == len(before) + 1
    assert before.items() <= after.items()
    assert {one.id for one in read_labels(folder)} == {f"mixture/{one.id}" for one in training_samples(5)}


def test_label_options_reach_the_store(tmp_path: Path) -> None:
    options = (
        "--start 7 --samples 1 --kind elite:share=0.5 --keep 9 --grouper random --strategy random".split()
    )
    printed("label", "--out", tmp_path, *options, *FEW, "--positions", "compact", "--seed", 2)
    store = read_labels(tmp_path)
    (one,) = store
    assert one.id == "mixture/mixture-train-7"
    assert len(one.kept) == 9
    expected = {"kind": "elite:share=0.5", "keep": 9, "grouper": "random", "strategy": "random"}
    assert (
        expected | {"evaluations": 48, "positions": "compact", "seed": 2}
    ).items() <= store.settings.items()


@pytest.mark.parametrize("grouper", GROUPERS)
def test_label_works_with_every_grouper(grouper: str, tmp_path: Path) -> None:
    summary = parsed("label", "--out", tmp_path, "--samples", 2, "--grouper", grouper, *FEW)
    assert (summary["samples"], summary["grouper"], summary["keep"]) == (2, grouper, 16)


def test_label_refuses_a_store_of_another_configuration(labels: Path) -> None:
    before = content(labels)
    message = refused("label", "--out", labels, "--samples", 5, "--kind", "random", "--evaluations", 48)
    assert "kind is 'best' there and 'random' here" in message
    assert "seed is 0 there and 3 here" in refused("label", "--out", labels, *FEW, "--seed", 3)
    assert content(labels) == before


def test_labels_compares_stores_on_the_samples_they_share(labels: Path, tmp_path: Path) -> None:
    printed("label", "--out", tmp_path / "random", "--samples", 3, "--kind", "random")
    first, second = parsed("labels", "show", labels, tmp_path / "random")
    assert (first["samples"], second["samples"]) == (4, 3)
    assert first["against the first"] is None
    searched = {one.id: one.loss_after for one in read_labels(labels)}
    gaps = [one.loss_after - searched[one.id] for one in read_labels(tmp_path / "random")]
    found = second["against the first"]["difference"]
    middle, low, high = found["difference"], found["low"], found["high"]
    assert middle == pytest.approx(sum(gaps) / 3)
    assert min(gaps) <= low <= middle <= high <= max(gaps)
    assert second["against the first"]["better on, %"] == pytest.approx(100 * sum(g < 0 for g in gaps) / 3)
    assert "better on, %" in printed("labels", "show", labels, tmp_path / "random")
    assert "better on" not in printed("labels", "show", labels)


def test_labels_refuses_stores_without_common_samples(labels: Path, tmp_path: Path) -> None:
    printed("label", "--out", tmp_path / "other", "--samples", 2, "--start", 100, "--kind", "random")
    assert "share 0 samples" in refused("labels", "show", labels, tmp_path / "other")


def test_train_leaves_weights_curves_and_configuration(compressor: Path) -> None:
    files = content(compressor)
    expected = {"checkpoint.pt", "compressor.json", "compressor.safetensors", "curves.csv", "curves.png"}
    assert set(files) == expected
    rows = list(csv.DictReader(files["curves.csv"].decode().splitlines()))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    with Image.open(compressor / "curves.png") as curves:
        assert curves.width > 400


def test_train_again_resumes_and_other_settings_are_refused(labels: Path, compressor: Path) -> None:
    before = content(compressor)
    summary = parsed("train", "--labels", labels, "--out", compressor, *QUICK)
    assert summary["samples"] == 3  # one of four is held out
    message = refused("train", "--labels", labels, "--out", compressor, *QUICK, "--seed", 1)
    assert "seed is 0 there and 1 here" in message
    after = content(compressor)
    assert {n: after[n] for n in after if n != "curves.png"} == {
        n: before[n] for n in before if n != "curves.png"
    }


def test_train_options_reach_the_compressor(labels: Path, tmp_path: Path) -> None:
    options = "--loss ghm --lambda 0.5 --bins 7 --normalise-by bins --no-text --seed 3".split()
    options += "--epochs 1 --validate-samples 3".split()
    summary = parsed("train", "--labels", labels, "--out", tmp_path / "made", *options)
    assert summary["samples"] == 4
    info = json.loads((tmp_path / "made" / "compressor.json").read_text())["info"]
    assert info["base_model"] == "micro" and info["labels"] == [read_labels(labels).settings]
    expected = {
        "loss": "ghm",
        "lambda_cos": 0.5,
        "normalise_by": "bins",
        "bins": 7,
        "text": False,
        "seed": 3,
        "validated": "by a function",
    }
    assert expected.items() <= info.items()
    assert not Compressor.load(tmp_path / "made").text


def test_a_training_that_was_validated_otherwise_is_refused(labels: Path, tmp_path: Path) -> None:
    out = tmp_path / "made"
    given = ("train", "--labels", labels, "--out", out, "--loss", "ce", "--validate-samples")
    parsed(*given, 3, "--epochs", 1)
    before = (out / "compressor.json").read_bytes()
    assert json.loads(before)["info"]["validation"]["textvqa: n"] == 3
    said = refused(*given, 4, "--epochs", 1)
    assert "textvqa: n is 3 there and 4 here" in said
    said = refused(*given, 3, "--epochs", 1, "--validate", "gqa")
    assert "task is 'textvqa' there and 'gqa' here" in said
    assert (out / "compressor.json").read_bytes() == before
    parsed(*given, 3, "--epochs", 1)
    assert (out / "compressor.json").read_bytes() == before


def test_eval_scores_tasks(compressor: Path) -> None:
    whole, cut = (
        parsed("eval", "--tasks", "gqa,pope", "-n", 6, *more)
        for more in ((), ("--method", "evocomp:depth=1", "--compressor", compressor, "--keep", 20))
    )
    assert [one["task"] for one in whole] == ["gqa", "pope"]
    assert whole[0]["tokens"] == 144
    assert 0 <= cut[0]["score"] <= whole[0]["score"] <= 100
    assert cut[0]["entering"] == [144] + [9] * 11  # nearest to an average of 20
    fastv = ("eval", "--tasks", "gqa", "-n", 2, "--method", "fastv", "--keep", 20, "--match")
    assert parsed(*fastv, "tokens")[0]["entering"] == [144] + [20] * 11
    free = parsed("eval", "--tasks", "gqa", "-n", 2, "--method", "grid", "--keep", 20)[0]
    assert parsed(*fastv, "flops")[0]["prefill_flops"] == pytest.approx(free["prefill_flops"], rel=0.03)
    table = printed("eval", "--tasks", "gqa", "-n", 2, "--method", "random")
    assert "random, keep 16" in table
    assert "accuracy" in table


GRID = ("compare", "--keep", "48,32,48", "--tasks", "gqa,pope", "-n", 6)


def test_compare_writes_tables_report_and_pictures(compressor: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "tables"
    methods = f"none,grid,fastv:layer=3,evocomp:compressor={compressor},depth=1"
    result = run(*GRID, "--methods", methods, "--out", out)
    assert result.exit_code == 0, result.stderr
    assert "14 of 14 cells" in result.stderr
    written = content(out)
    expected = {"results.json", "table.md", "table.csv", "table.tex", "report.html", "pictures/fronts.png"}
    expected |= {"pictures/kept-gqa.png", "pictures/kept-pope.png", "run.json", "times.json"}
    expected |= {"questions.json", "samples/gqa.parquet", "samples/pope.parquet"}
    assert {name for name in written if not name.startswith("cells/")} == expected
    assert len([name for name in written if name.startswith("cells/")]) == 14
    told = json.loads(written["results.json"])
    assert len(told["rows"]) == (1 + 3 * 2) * 2
    assert {"method", "keep", "task", "score", "share", "ledger", "n"} <= told["rows"][0].keys()
    assert told["rows"][0]["method"] == "none"
    assert told["facts"]["model"] == "micro"
    assert "fastv:layer=3" in result.stdout
    assert "Budgets are visual tokens entering a decoder layer" in result.stdout
    page = written["report.html"].decode()
    assert "evocomp compare --keep" in page


def test_compare_prints_the_same_rows_as_json() -> None:
    told = parsed("compare", "--methods", "grid", "--keep", 16, "--tasks", "gqa", "-n", 4)
    rows = told["rows"]
    assert [(row["method"], row["keep"], row["n"]) for row in rows] == [("none", 144, 4), ("grid", 16, 4)]
    assert rows[0]["share"] == 100
    assert (told["reference"], told["match"], told["impossible"]) == ("grid", "equivalent", [])


def test_compare_resumes_and_refuses_other_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = (*GRID, "--methods", "farthest,grid", "--out", tmp_path / "out")
    first = parsed(*command)
    before = content(tmp_path / "out" / "cells")
    with monkeypatch.context() as patched:
        patched.setattr("bench.evaluation.cellwork.answer", lambda *given, **options: 1 / 0)
        again = parsed(*command)
    assert again == first
    assert "batch is 16 there and 8 here" in refused(*command, "--batch", 8)
    assert "match is 'equivalent' there and 'flops' here" in refused(*command, "--match", "flops")
    assert "gqa: n is 6 there and 5 here" in refused(*command, "-n", 5)
    assert content(tmp_path / "out" / "cells") == before


def test_ctrl_c_while_comparing_keeps_finished_cells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[object] = []

    def interrupted(*given: Any, **options: Any) -> Any:
        calls.append(given)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return answer(*given, **options)

    command = (*GRID, "--methods", "farthest,grid", "--out", tmp_path / "out")
    with monkeypatch.context() as patched:
        patched.setattr("bench.evaluation.cellwork.answer", interrupted)
        assert "run label, train, run or compare --out again to resume" in refused(*command, status=130)
    assert len(list((tmp_path / "out" / "cells").glob("*.parquet"))) == 3
    assert len(parsed(*command)["rows"]) == 10


def test_a_plan_of_a_comparison_has_its_cells_and_measured_hours_and_does_nothing(tmp_path: Path) -> None:
    command = (*GRID, "--methods", "farthest,random,fastv", "--keep", "48,12")
    fresh = printed(*command, "--out", tmp_path / "new", "--dry-run", "--devices", "cpu,cpu")
    assert "14 cells, 12 left in 28 parts; 168 answers" in fresh  # fastv cannot spend 12
    assert "12 cells of unknown time" in fresh and "about" not in fresh
    assert not list(tmp_path.iterdir())
    small = ("compare", "--methods", "farthest", "--keep", 48, "--tasks", "gqa", "-n", 4)
    printed(*small, "--out", tmp_path / "a")
    before = content(tmp_path)
    told = printed(*command, "--rates", tmp_path / "a", "--dry-run", "--devices", "cpu,cpu")
    assert "with 1 worker, " in told and " with 2 workers: by measured times" in told
    assert "6 cells of unknown time" in told  # those of pope
    cells = parsed(*command, "--rates", tmp_path / "a", "--dry-run")
    assert sum(one["seconds"] is None for one in cells) == 6 and len(cells) == 14
    assert content(tmp_path) == before
    assert "--rates needs --dry-run" in refused(*command, "--rates", tmp_path / "a")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_compare_on_devices_prints_what_one_process_does(monkeypatch: pytest.MonkeyPatch) -> None:
    command = (*GRID, "--methods", "farthest,random", "--match", "flops", "--batch", 2)
    whole = parsed(*command)
    monkeypatch.setattr("bench.evaluation.cellwork.PART", 3)
    assert parsed(*command, "--devices", "cpu,cpu") == whole


def test_compare_shows_hard_questions_and_empty_cells() -> None:
    methods = ("--methods", "grid,fastv,farthest", "--reference", "farthest", "--difficulty", "grid")
    result = run("compare", *methods, "--keep", "16,12", "--tasks", "gqa", "-n", 12)
    assert result.exit_code == 0, result.stderr
    assert "on the hard questions" in result.stdout
    assert "questions grid misses" in result.stdout
    assert "– fastv at 12: keep=12 is out of reach for FastV with match=equivalent" in result.stdout
    assert "vs farthest, 95 %" in result.stdout


def test_all_methods_are_those_that_a_name_makes() -> None:
    told = parsed("compare", "--methods", "all", "--keep", 36, "--tasks", "gqa", "-n", 2)
    compared = {row["method"] for row in told["rows"]} | {one["method"] for one in told["impossible"]}
    assert compared == set(buildable("micro"))
    assert {"none", "random", "grid", "fastv", "visionzip", "evocomp"} <= compared
    assert "evocomp" not in buildable("a model that nothing is shipped for")
    assert "evocomp" in buildable("a model that nothing is shipped for", "folder")


def test_the_table_joins_folders_of_one_protocol_and_marks_others(tmp_path: Path) -> None:
    one, two, other = tmp_path / "one", tmp_path / "two", tmp_path / "other"
    shared = ("compare", "--keep", 32, "--tasks", "gqa", "-n", 4, "--methods")
    printed(*shared, "grid", "--out", one)
    printed(*shared, "farthest", "--out", two)
    printed(*shared, "farthest", "--batch", 2, "--out", other)
    told = parsed("report", one, two, "--reference", "grid", "--out", tmp_path / "joint")
    assert [row["method"] for row in told["summary"]][0] == "none"
    assert {row["method"] for row in told["summary"]} == {"none", "grid", "farthest"}
    files = {"results.json", "table.md", "table.csv", "table.tex", "pictures/fronts.png"}
    assert set(content(tmp_path / "joint")) == files
    message = refused("report", one, other)
    assert f"not comparable: batch is 16 in {one} and 2 in {other}" in message
    assert "--mixed" in message
    text = printed("report", one, other, "--mixed", "--format", "table")
    assert text.startswith("MIXED PROTOCOLS")
    assert "farthest [2]" in text
    assert "Mixed protocols, not comparable: [2] batch is 16 in" in text
    assert "no results here" in refused("report", tmp_path / "nowhere")
    assert "unknown method of these results 'gird'" in refused("report", one, "--reference", "gird")


def test_specs_are_split_between_methods_and_not_between_options() -> None:
    assert specs("grid, fastv:layer=3,visionzip:contextual=0.1,layer=-2; none") == [
        "grid",
        "fastv:layer=3",
        "visionzip:contextual=0.1,layer=-2",
        "none",
    ]


# Mistakes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["ask", "search"])
def test_images_that_cannot_be_read(command: str, tmp_path: Path) -> None:
    open_image("micro:3").save(tmp_path / "whole.png")
    data = (tmp_path / "whole.png").read_bytes()
    broken = {
        "cut.png": data[: len(data) // 2],
        "text.png": b"hello",
        "empty.png": b"",
        "head.png": data[:20],
    }
    for name, bytes_ in broken.items():
        (tmp_path / name).write_bytes(bytes_)
        message = refused(command, tmp_path / name, STAR[1])
        assert f"{name} cannot be read as an image" in message
        assert "PNG, JPEG or WebP" in message
    assert "there is no image at" in refused(command, tmp_path / "missing.png", STAR[1])
    assert "cut.png cannot be read as an image" in refused(command, tmp_path, STAR[1])  # a video's frame
    assert "micro:SEED" in refused(command, "micro:star", STAR[1])


def test_images_too_large_to_decode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_image("micro:3").save(tmp_path / "large.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert "cannot be read as an image" in refused("ask", tmp_path / "large.png", STAR[1])


ASK, SEARCH = ("ask", *STAR), ("search", *STAR)
EVAL = ("eval", "--tasks", "gqa", "-n", 2)
COMPARE = ("compare", "--tasks", "gqa", "-n", 2, "--methods")
LABEL, TRAIN = ("label", "--out", "{out}"), ("train", "--labels", "{labels}", "--out", "{out}")
MISTAKES: list[tuple[tuple[object, ...], str]] = [
    (("ask", "micro:3", "  "), "the question is empty"),
    (("search", "micro:3", ""), "the question is empty"),
    (("search", *STAR, "--answer", " "), "no answer to score"),
    (("ask", "micro:3"), "Missing argument 'QUESTION'. See evocomp ask --help"),
    # names
    (("trian",), "unknown command 'trian'; did you mean 'train'?"),
    (("--modle",), "No such option '--modle'"),
    ((*ASK, "--kep", 3), "'--keep'"),
    ((*ASK, "--method", "fastvv"), "did you mean 'fastv'?"),
    ((*ASK, "--method", "fastv:layr=3"), "did you mean 'layer'?"),
    ((*ASK, "--method", "fastv:layer=two"), "layer=two: expected a whole number"),
    ((*ASK, "--method", "fastv:3"), "write options as name:option=value"),
    ((*ASK, "--method", "grid", "--model", "mirco"), "unknown model 'mirco'; did you mean 'micro'?"),
    ((*ASK, "--method", "grid", "--device", "gpu"), "--device gpu cannot be used here"),
    ((*ASK, "--method", "grid", "--dtype", "int4"), "'int4' is not one of 'float32'"),
    ((*SEARCH, "--grouper", "vocabluary"), "did you mean 'vocabulary'?"),
    ((*SEARCH, "--grouper", "k-means:strats=2"), "did you mean 'starts'?"),
    ((*SEARCH, "--strategy", "evolve"), "did you mean 'evolution'?"),
    ((*EVAL, "--method", "visonzip"), "did you mean 'visionzip'?"),
    (("eval", "--tasks", "gqa,poep"), "unknown task 'poep'; did you mean 'pope'?"),
    (("eval", "--tasks", ","), "--tasks names nothing"),
    ((*COMPARE, "random,gird"), "did you mean 'grid'?"),
    ((*COMPARE, "none"), "name a method besides none"),
    ((*COMPARE, "random", "--reference", "grid"), "--reference grid: choose one of random"),
    ((*COMPARE, "random", "--compressor", "."), "no method takes the --compressor"),
    ((*ASK, "--method", "grid", "--compressor", "."), "takes no --compressor"),
    (("draw", "kept", *STAR, "--methods", "grid", "--compressor", "."), "no method takes the --compressor"),
    (("bench", "question", "--methods", "grid", "--compressor", "."), "no method takes the --compressor"),
    (("bench", "latency", "--methods", "grid", "--compressor", "."), "no method takes the --compressor"),
    ((*LABEL, "--kind", "bset"), "unknown label kind 'bset'; did you mean 'best'?"),
    ((*LABEL, "--kind", "dpc-knn:neighbors=3"), "did you mean 'neighbours'?"),
    ((*LABEL, "--grouper", "k-mean"), "did you mean 'k-means'?"),
    ((*LABEL, "--grouper", "k-means:starts=x"), "evocomp: grouper 'k-means': starts=x: expected a whole"),
    ((*LABEL, "--strategy", "hill"), "did you mean 'hill-climb'?"),
    ((*LABEL, "--shard", "4/4"), "shard 4/4: choose i/n with i from 0 to n - 1"),
    ((*LABEL, "--address", "auto"), "--address needs --engine ray"),
    ((*LABEL, "--gpus", 1), "--gpus needs --engine ray"),
    ((*COMPARE, "random", "--address", "auto"), "--address needs --engine ray"),
    ((*COMPARE, "random", "--devices", "cpu,cpu", "--device", "cpu"), "--devices and --device: give one of"),
    ((*COMPARE, "random", "--devices", "cpu,cpu", "--workers", 3), "one for each of the 2 --devices"),
    ((*COMPARE, "random", "--devices", "cpu", "--engine", "ray"), "--devices needs --engine local"),
    ((*COMPARE, "random", "--devices", "cpu,cuda:1"), "name one device or more, all of one kind"),
    (
        (*COMPARE, "random", "--devices", "cpu,cpu", "--indices-from", "micro"),
        "selects on another model, which only one machine with one device can do",
    ),
    (
        ("run", "table3", "--devices", "cpu,cpu", "--dry-run"),
        "rows of this recipe select on another model, which only one machine with one device can do",
    ),
    ((*LABEL, "--images", "{out}"), "--images needs --data"),
    ((*LABEL, "--rules", "{out}"), "--rules needs --data"),
    ((*LABEL, "--turns", "all"), "--turns needs --data"),
    ((*TRAIN, "--images", "{out}"), "--images needs --data"),
    ((*LABEL, "--turns", "al"), "'al' is not one of 'first', 'random', 'all'"),
    ((*LABEL, "--data", "mix.json"), "--data needs --images"),
    ((*LABEL, "--data", "mix.json", "--images", "."), "there is no file mix.json"),
    (("labels", "{labels}", "--quarantine", "--audit", 2), "--quarantine and --audit: use one at a time"),
    (("labels", "shwo", "{labels}"), "unknown command 'shwo'; did you mean 'show'?"),
    (("labels", "quarantine", "{labels}", "{labels}"), "Got unexpected extra argument"),
    (("labels", "export", "{labels}", "--out", "{labels}"), "exists: choose a new folder"),
    (("labels", "merge", "{labels}", "--out", "{labels}"), "exists: choose a new folder"),
    (("list", "method"), "No such command 'method'"),
    (("data", "records", "gqq", "--out", "{out}"), "unknown source 'gqq'; did you mean 'gqa'?"),
    (
        ("data", "records", "gqa", "--out", "{out}"),
        "gqa needs --from: give the folder with its official files",
    ),
    (("data", "records", "micro", "--out", "{out}"), "micro needs --images"),
    (("data", "check", "a.json", "--images", "{out}", "--out", "{out}"), "there is no folder"),
    ((*TRAIN, "--loss", "ghm-cos"), "did you mean 'ghm+cos'?"),
    ((*TRAIN, "--validate", "textqa"), "did you mean 'textvqa'?"),
    # budgets and other numbers
    *(
        ((*command, "--keep", keep), said)
        for command in (
            (*ASK, "--method", "grid"),
            SEARCH,
            EVAL,
            (*COMPARE, "random"),
            (*LABEL, "--samples", 1),
        )
        for keep, said in (
            (0, "a budget is a count of visual tokens from 1, or a ratio of each image's"),
            ("101%", "a budget is a count of visual tokens from 1, or a ratio of each image's"),
            (145, "between 1 and the 144 visual tokens"),
        )
    ),
    ((*ASK, "--keep", "few"), "'few': a budget is a count of visual tokens from 1, or a ratio"),
    ((*COMPARE, "random", "--keep", "16,few"), "'16,few': write budgets with commas"),
    ((*ASK, "--method", "fastv", "--keep", 12), "the nearest budget is 13"),
    ((*EVAL, "--method", "fastv", "--keep", 12), "the nearest budget is 13"),
    ((*COMPARE, "fastv", "--keep", "12,11"), "with match=equivalent"),
    ((*COMPARE, "random", "--keep", "48,145"), "between 1 and the 144 visual tokens"),
    ((*COMPARE, "random", "--difficulty", "grid"), "--difficulty grid: choose one of random"),
    ((*COMPARE, "random", "--match", "tokns"), "'tokns' is not one of 'tokens', 'equivalent', 'flops'"),
    ((*COMPARE, "random", "--positions", "own"), "'own' is not one of 'original', 'compact'"),
    (("report",), "Missing argument 'FOLDERS...'"),
    ((*ASK, "--method", "grid:depth=12"), "a decoder layer up to 11"),
    ((*EVAL, "-n", 0), "0 is not in the range 1<=x<=1000000000"),
    ((*TRAIN, "--lr", 0), "choose lr above 0"),
    ((*TRAIN, "--lr", "nan"), "lr=nan: choose a finite number"),
    ((*TRAIN, "--lambda", -1), "choose 0 or more"),
    ((*TRAIN, *QUICK, "--target", "score"), "its label has no scores"),
    # places
    ((*ASK, "--out", "kept.jpg"), "a name that ends in .png"),
    ((*ASK, "--compressor", "{out}"), "no compressor here"),
    (("train", "--labels", "{out}", "--out", "{out}"), "no labels here"),
]


@pytest.mark.parametrize(("arguments", "expected"), MISTAKES, ids=lambda one: " ".join(map(str, one))[:60])
def test_mistakes_get_one_line(
    arguments: tuple[object, ...], expected: str, labels: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    places = {"labels": labels, "out": tmp_path / "out"}
    assert expected in refused(*(str(one).format(**places) for one in arguments))
    assert content(tmp_path) == {}


def test_an_impossible_budget_is_refused_before_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.evaluation.cellwork.answer", lambda *given, **options: 1 / 0)
    assert "out of reach" in refused(*COMPARE, "fastv", "--keep", "12,11")


def test_keeping_nothing_is_not_keeping_everything() -> None:
    mllm, task = load("micro"), TASKS["gqa"]()
    with pytest.raises(ValueError, match="keep=0: give a count of visual tokens from 1"):
        evaluate(mllm, task, task.micro(1), METHODS["random"](), 0)


WRITERS: dict[str, tuple[object, ...]] = {
    "ask": (*ASK, "--method", "grid"),
    "search": (*SEARCH, *FEW),
    "label": ("label", "--samples", 2, *FEW),
    "train": ("train", "--labels", "{labels}", *QUICK),
    "compare": (*COMPARE, "grid", "--keep", 16),
}


@pytest.fixture(params=WRITERS)
def writer(request: pytest.FixtureRequest, labels: Path) -> Callable[[Path], tuple[str, ...]]:
    """A command that writes to a given place, all but ask a folder."""
    command = [str(one).format(labels=labels) for one in WRITERS[request.param]]
    return lambda out: (*command, "--out", str(out / "kept.png" if request.param == "ask" else out))


def test_a_file_is_no_place_to_write_to(writer: Callable[[Path], tuple[str, ...]], tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("precious")
    assert "is a file" in refused(*writer(file))
    assert "is a file" in refused(*writer(file / "below"))
    assert content(tmp_path) == {"file": b"precious"}


def test_a_folder_that_cannot_be_written_is_refused_before_the_work(
    writer: Callable[[Path], tuple[str, ...]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Tests may run as root, who may write anywhere.
    monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK)
    assert f"{tmp_path} is not writable" in refused(*writer(tmp_path / "out"))
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_no_half_of_a_file(
    writer: Callable[[Path], tuple[str, ...]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        message = refused(*writer(tmp_path / "out"))
    assert "No space left on device" in message
    assert str(tmp_path / "out") in message
    assert content(tmp_path) == {}
    assert run(*writer(tmp_path / "out")).exit_code == 0  # with space again, the same command works


def test_a_full_disk_while_a_shard_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("pyarrow.parquet.write_table", full)
    message = refused("label", "--out", tmp_path / "out", "--samples", 2, *FEW)
    assert "cannot write labels to" in message
    assert content(tmp_path) == {}


def test_a_disk_that_fills_up_during_training(labels: Path, tmp_path: Path) -> None:
    """Really: files may not grow beyond what embeddings and weights take, but the checkpoint takes more."""
    resource = pytest.importorskip("resource")
    command = ("train", "--labels", labels, "--out", tmp_path / "out", *QUICK)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, hard))
    try:
        message = refused(*command)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "checkpoint.pt: File too large" in message
    Compressor.load(tmp_path / "out")
    assert not list(tmp_path.rglob("*.part"))
    assert run(*command).exit_code == 0


def test_an_unreadable_store_is_refused(labels: Path, tmp_path: Path) -> None:
    for number, keep in enumerate((0, 200)):
        store = shutil.copytree(labels, tmp_path / f"store{number}")
        shard = next(store.glob("*.parquet"))
        shard.write_bytes(shard.read_bytes()[:keep])
        for command in (("train", "--labels", store, "--out", tmp_path / "out"), ("label", "--out", store)):
            assert f"{shard}: unreadable" in refused(*command)
    assert not (tmp_path / "out").exists()


def test_a_store_of_other_samples_is_refused(labels: Path, tmp_path: Path) -> None:
    (tmp_path / "other.parquet").write_bytes(b"PAR1 not really PAR1")
    assert "unreadable" in refused("train", "--labels", tmp_path, "--out", tmp_path / "out")


def narrow(width: int) -> Compressor:
    config = LlamaConfig(
        hidden_size=width, intermediate_size=64, num_attention_heads=4, num_hidden_layers=1, vocab_size=4
    )
    return Compressor(config)


def test_a_compressor_is_taken_by_its_name_on_the_hub(
    compressor: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def fetch(name: str, patterns: object, **_: object) -> Path:
        asked.append(name)
        return compressor

    monkeypatch.setattr("compress.hub.fetch", fetch)
    local = parsed("ask", *STAR, "--compressor", compressor, "--keep", 20)
    remote = parsed("ask", *STAR, "--compressor", "me/compressor", "--keep", 20)
    assert asked == ["me/compressor"] and remote["kept"] == local["kept"]


def test_a_hub_that_cannot_be_asked_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for option in ("--compressor", "--model"):
        message = refused(
            "ask", *STAR, "--method", "evocomp" if "comp" in option else "grid", option, "me/it"
        )
        assert "HF_HUB_OFFLINE is set" in message and "hf download me/it" in message


def test_a_compressor_of_another_width_works_by_pooling(tmp_path: Path) -> None:
    narrow(48).save(tmp_path)
    assert len(parsed("ask", *STAR, "--compressor", tmp_path)["kept"]) == 16


def test_a_compressor_that_does_not_fit_its_configuration_is_refused(tmp_path: Path) -> None:
    narrow(48).save(tmp_path / "one")
    narrow(32).save(tmp_path / "two")
    weights = tmp_path / "one" / "compressor.safetensors"
    shutil.copy(tmp_path / "two" / "compressor.safetensors", weights)
    assert "another shape" in refused("ask", *STAR, "--compressor", tmp_path / "one")
    assert "another shape" in refused(
        *COMPARE, f"random,evocomp:compressor={tmp_path / 'one'}", "--out", tmp_path / "out"
    )
    weights.write_bytes(b"broken")
    assert "unreadable" in refused(*EVAL, "--method", "evocomp", "--compressor", tmp_path / "one")
    weights.unlink()
    assert "unreadable" in refused("ask", *STAR, "--compressor", tmp_path / "one")
    (tmp_path / "one" / "compressor.json").write_text("{")
    assert "compressor.json: not JSON" in refused("ask", *STAR, "--compressor", tmp_path / "one")
    assert not (tmp_path / "out").exists()


def test_a_loss_that_is_not_a_number_stops_the_training(labels: Path, tmp_path: Path) -> None:
    arguments = ("--epochs", 6, "--validate", "none", "--lr", 1e9)
    message = refused("train", "--labels", labels, "--out", tmp_path / "out", *arguments)
    assert "epoch 1: weights or logits are not finite numbers; choose a smaller lr" in message
    assert not list(tmp_path.rglob("*.part"))
    assert not (tmp_path / "out" / CONFIG).exists(), "no epoch was right"


def test_a_model_folder_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    folder = shutil.copytree(MODELS["micro"], tmp_path / "model")
    config, weights = folder / "config.json", folder / "model.safetensors"
    text, data = config.read_text(), weights.read_bytes()

    def message() -> str:
        return refused("ask", *STAR, "--method", "grid", "--model", folder)

    config.write_text(text.replace('"vocab_size": 207', '"vocab_size": 300'))
    assert "differ in shape" in message()
    config.write_text(text.replace('"num_hidden_layers": 12', '"num_hidden_layers": 13'))
    assert "9 weights are missing" in message()
    config.write_text(text)
    weights.write_bytes(data[:100_000])
    assert "weights are unreadable" in message()
    config.write_text("{")
    assert "not JSON" in message()


# Interruptions, errors of our own, progress ---------------------------------------------------------------


def test_ctrl_c_while_labelling_keeps_finished_samples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from compress.labels.labelling import Labeller

    calls, original = [], Labeller.__call__

    def interrupted(self: Labeller, sample: Any) -> Any:
        calls.append(sample)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(self, sample)

    command = ("label", "--out", tmp_path / "labels", "--samples", 4, *FEW)
    with monkeypatch.context() as patched:
        patched.setattr(Labeller, "__call__", interrupted)
        assert "interrupted" in refused(*command, status=130)
    assert len(read_labels(tmp_path / "labels")) == 2
    assert parsed(*command)["samples"] == 4
    assert len(content(tmp_path / "labels")) == 2  # the first shard stayed as it was


def test_a_preset_gives_the_papers_settings_and_what_is_given_wins(
    labels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bench.commands.options import keys_of
    from compress.training import config as train_config

    assert keys_of("compress.training.config:PRESETS") == list(train_config.PRESETS)
    asked = []
    monkeypatch.setattr("bench.commands.train.carry_out", lambda order: asked.append(order) or 1 / 0)
    command = ("train", "--labels", labels, "--out", tmp_path / "out")
    for options in (
        (),
        ("--preset", "llava-next-7b"),
        ("--preset", "llava-next-7b", "--batch", 8, "--no-text"),
    ):
        run(*command, *options)
    paper = train_config.preset("llava-next-7b")
    assert [order.config for order in asked] == [
        train_config.TrainConfig(), paper, replace(paper, batch=8, text=False),
    ]  # fmt: skip
    assert "llava-1.5-7b|llava-next-7b|qwen2.5-vl-7b" in printed("train", "--help")


@pytest.mark.slow
def test_two_processes_train_what_one_does(labels: Path, compressor: Path, tmp_path: Path) -> None:
    """With features of which each process embeds its half."""
    cache = ("--features", "disk", "--cache", tmp_path / "cache")
    command = ("train", "--labels", labels, *QUICK, *cache, "--processes", 2)
    summary = parsed(*command, "--out", tmp_path / "two")
    assert summary["samples"] == 3
    assert len(list((tmp_path / "cache").rglob("*.safetensors"))) == 4
    one, two = (Compressor.load(folder).state_dict() for folder in (compressor, tmp_path / "two"))
    assert all(one[name].allclose(two[name], rtol=1e-3, atol=1e-4) for name in one)


def test_ctrl_c_while_training_keeps_finished_epochs(
    labels: Path, compressor: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from compress.training.run import _TrainingRun

    original = _TrainingRun._step

    def interrupted(self: _TrainingRun, *arguments: Any) -> float:
        if self.history:
            raise KeyboardInterrupt
        return original(self, *arguments)

    command = ("train", "--labels", labels, "--out", tmp_path / "out", *QUICK)
    with monkeypatch.context() as patched:
        patched.setattr(_TrainingRun, "_step", interrupted)
        assert "interrupted" in refused(*command, status=130)
    assert len((tmp_path / "out" / "curves.csv").read_text().splitlines()) == 2
    printed(*command)
    weights = "compressor.safetensors"
    assert (tmp_path / "out" / weights).read_bytes() == (compressor / weights).read_bytes()


def test_the_trace_of_a_mistake_can_be_seen() -> None:
    command = ("ask", "micro:3", " ")
    for result in (run("--traceback", *command), run(*command, env={"EVOCOMP_TRACEBACK": "1"})):
        assert result.exit_code == 2
        assert result.stderr.startswith("Traceback (most recent call last):")
        assert "\nValueError: the question is empty" in result.stderr
        assert result.stderr.splitlines()[-1] == refused(*command)


def test_an_error_of_our_own_is_one_line_that_names_its_trace(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("bench.commands.ask.open_visual", lambda *told: 1 / 0)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    line = refused(*ASK, status=1)
    assert "internal error (ZeroDivisionError: division by zero)" in line
    (trace,) = tmp_path.iterdir()
    assert line.endswith(f"the traceback in {trace}")
    written = trace.read_text()
    assert written.startswith(f"evocomp {shlex.join(map(str, ASK))}\n")
    assert "Traceback (most recent call last)" in written and "1 / 0" in written
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    assert "run the command again with --traceback" in refused(*ASK, status=1)


def test_memory_that_ran_out_is_not_an_error_of_our_own(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*told: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes")

    monkeypatch.setattr("bench.commands.ask.open_visual", full)
    assert "out of memory: use fewer samples" in refused(*ASK)


def every_command(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[str, click.Command]]:
    ctx = click.Context(group)
    for name in group.list_commands(ctx):
        command = group.get_command(ctx, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from every_command(command, (*path, name))
        else:
            yield " ".join((*path, name)), command


def test_no_number_is_without_bounds() -> None:
    held_against_the_model = {"keep", "depth_slice", "layers", "chunk"}
    checked = 0
    for name, command in every_command(main):
        for option in command.params:
            if isinstance(option.type, click.IntRange):
                assert option.type.max is not None, (name, option.name)
                checked += 1
            else:
                plain = isinstance(option.type, type(click.INT))
                assert not plain or option.name in held_against_the_model, (name, option.name)
            if isinstance(option.type, click.FloatRange):
                assert isinstance(option.type, Amount), (name, option.name)
    assert checked > 40


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (("eval", "--tasks", "pope,pope"), "'pope' is named twice"),
        (("eval", "--tasks", "gqa:"), "'gqa:' names no option after the colon"),
        (("compare", "--methods", "grid,grid"), "'grid' is named twice"),
        (("compare", "--methods", "random:draws=1000000"), "draws=1000000: choose between 1 and 1000"),
        (("ask", *STAR, "--device", "meta"), "--device meta cannot be used here"),
        (("compare", "--workers", 10**22), "--workers"),
        (("eval", "-n", 10**22), "-n"),
        (("eval", "--batch", 10**22), "--batch"),
        (("search", *STAR, "--seed", 10**22), "--seed"),
        (("search", *STAR, "--seed", -1), "--seed"),
        (("label", "--gpus", "inf"), "not a finite number"),
        (("label", "--gpus", "nan"), "not a finite number"),
        (("ask", *STAR, "--method", f"random:seed={10**22}"), "the largest whole number is 9,223,372,036"),
    ],
)
def test_what_could_mean_nothing_is_refused(command: tuple[object, ...], said: str) -> None:
    assert said in refused(*command)


FLOOD = "x" * 300_000


@pytest.mark.parametrize(
    "command",
    [
        (FLOOD,),
        ("ask", FLOOD, "what ?"),
        ("ask", *STAR, "--method", FLOOD),
        ("ask", *STAR, "--method", f"grid:{FLOOD}"),
        ("ask", *STAR, "--method", f"random:seed={FLOOD}"),
        ("ask", *STAR, "--model", FLOOD),
        ("ask", *STAR, "--keep", "9" * 5000),
        ("eval", "--tasks", FLOOD),
        ("eval", "--batch", FLOOD),
        ("eval", "--data", FLOOD),
        ("eval", "--device", FLOOD),
        ("run", FLOOD),
        ("search", *STAR, "--strategy", FLOOD),
    ],
    ids=lambda command: " ".join(str(one)[:12] for one in command),
)
def test_a_message_is_never_a_flood(command: tuple[object, ...]) -> None:
    assert len(refused(*command)) < 1100


def test_progress_has_rate_and_time_left(capsys: pytest.CaptureFixture[str]) -> None:
    with _lines("label", "samples", every=0) as report:
        report(2, 10)
        report(4, 10)
        report(10, 10)
    first, second, third, last = capsys.readouterr().err.splitlines()
    assert first == "label: 2 of 10 samples"
    assert second.startswith("label: 4 of 10 samples, ")
    assert second.endswith(" s left")
    assert third == last
    with _bar("label", "samples") as report:
        report(4, 10)
    captured = capsys.readouterr()
    assert "4/10" in captured.err
    assert captured.out == ""


def test_methods_say_whether_they_run_on_a_model_at_a_budget():
    rows = json.loads(
        CliRunner().invoke(main, ["list", "methods", "--model", "micro", "--keep", "16", "--json"]).stdout
    )
    told = {row["name"]: row["runs on micro"] for row in rows}
    assert told["fastv"] == told["visionzip"] == "yes"
    assert told["tome"].startswith("no: ") and "18 of 144 is the smallest budget" in told["tome"]
    assert told["evs"] == "no: it chooses between frames, and micro reads no videos"


def test_methods_say_what_a_trained_one_needs(tiny_folder: Path, compressor: Path) -> None:
    model = ("list", "methods", "--model", tiny_folder, "--keep", 60)
    told = {row["name"]: row[f"runs on {tiny_folder}"] for row in parsed(*model)}
    assert told["evocomp"].startswith("with --compressor FOLDER: one trained on this model")
    assert told["fastv"] == "yes"
    told = {row["name"]: row[f"runs on {tiny_folder}"] for row in parsed(*model, "--compressor", compressor)}
    assert told["evocomp"] == "yes"
    assert "--compressor needs a model to be tried on" in refused(
        "list", "methods", "--compressor", compressor
    )
    assert "--keep needs a model to be tried on" in refused("list", "methods", "--keep", 16)
