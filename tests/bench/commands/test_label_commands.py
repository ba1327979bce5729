"""Labelling a file of training questions, and what can be done with a label store afterwards."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from bench.console import of_model
from bench.evaluation.compressors import SHIPPED
from bench.report.stores import compared, image_of, pace
from compress.labels import LabellingRun, read_labels
from tests.cli import parsed, printed, run

FEW = ("--evaluations", 48)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of 12 questions: one without an image, one whose picture is broken, one without an answer."""
    folder = tmp_path_factory.mktemp("mixture")
    printed("data", "records", "micro", "--out", folder / "made.json", "--images", folder, "-n", 12)
    records = json.loads((folder / "made.json").read_text())
    del records[1]["image"]
    records[4]["conversations"][1]["value"] = " "
    (folder / records[2]["image"]).write_bytes(b"<html>404</html>")
    (folder / "mix.json").write_text(json.dumps(records))
    return folder


@pytest.fixture(scope="module")
def manifest(folder: Path) -> Path:
    told = parsed("data", "check", folder / "mix.json", "--images", folder, "--out", folder / "mix.manifest")
    assert told["records"] == sum(told["sources"].values()) == 9
    assert {reason: one["count"] for reason, one in told["left out"].items()} == {
        "text only": 1, "no question with an answer": 1, "picture cannot be opened": 1,
    }  # fmt: skip
    return folder / "mix.manifest"


@pytest.fixture(scope="module")
def labels(folder: Path, manifest: Path) -> Path:
    """Labels of six of the questions, in two shards that share a folder."""
    for shard in ("0/2", "1/2"):
        printed(
            "label", "--data", folder / "mix.json", "--images", folder, "--manifest", manifest,
            "--samples", 6, "--shard", shard, "--out", folder / "labels", *FEW,
        )  # fmt: skip
    return folder / "labels"


def test_shards_hold_the_labels_of_one_run(
    folder: Path, manifest: Path, labels: Path, tmp_path: Path
) -> None:
    printed(
        "label", "--data", folder / "mix.json", "--images", folder, "--manifest", manifest, "--samples", 6,
        "--workers", 2, "--out", tmp_path / "whole", *FEW,
    )  # fmt: skip
    printed("labels", "merge", labels, "--out", tmp_path / "merged")
    printed("labels", "merge", tmp_path / "whole", "--out", tmp_path / "sorted")
    tables = [read_labels(tmp_path / name).table().drop_columns(["seconds"]) for name in ("merged", "sorted")]
    assert tables[0].equals(tables[1]) and len(tables[0]) == 6
    assert read_labels(labels).settings["data"] == "mix"


def test_what_a_broken_picture_ends_in_is_told_and_the_rest_is_labelled(folder: Path, tmp_path: Path) -> None:
    result = run("label", "--data", folder / "mix.json", "--images", folder, "--out", tmp_path, *FEW)
    assert result.exit_code == 0, result.stderr
    assert "left out: text only: 1 (first: record 1)" in result.stderr
    assert f"1 samples are in quarantine: evocomp labels quarantine {tmp_path}" in result.stderr
    (told,) = parsed("labels", "show", tmp_path)
    assert (told["samples"], told["in quarantine"], told["not done yet"]) == (9, 1, 0)
    ((key, reasons),) = parsed("labels", "quarantine", tmp_path).items()
    assert key == "mix/mix-2-0" and len(reasons) == 3 and "cannot be read as an image" in reasons[0]
    assert "cannot be read as an image" in printed("labels", "quarantine", tmp_path)
    before = len(read_labels(tmp_path).shards)
    printed("label", "--data", folder / "mix.json", "--images", folder, "--out", tmp_path, *FEW, "--again")
    assert len(read_labels(tmp_path).shards) == before


def test_labels_of_other_data_are_not_mixed(folder: Path, labels: Path, tmp_path: Path) -> None:
    result = run("label", "--out", labels, "--samples", 2, *FEW)
    assert result.exit_code == 2 and "data is 'mix' there and None here" in result.stderr
    (tmp_path / "mix.json").write_text((folder / "mix.json").read_text() + "\n")
    result = run("label", "--data", tmp_path / "mix.json", "--images", folder, "--out", labels, *FEW)
    assert result.exit_code == 2 and "data_sha256 is " in result.stderr


def test_the_summary_tells_how_far_a_campaign_is(labels: Path) -> None:
    (told,) = parsed("labels", "show", labels)
    assert (told["samples"], told["not done yet"], told["in quarantine"]) == (6, 0, 0)
    assert told["samples per second"] > 0 and told["hours left"] == 0
    low, middle, high = told["its 5th, 50th and 95th percentile"]
    assert low <= middle <= high
    assert 0 <= told["better than a random candidate, %"] <= 100


def test_the_pace_counts_the_time_in_which_something_ran() -> None:
    zero = datetime(2026, 1, 1, tzinfo=UTC)

    def ran(start: int, end: int, samples: int) -> LabellingRun:
        at, until = zero + timedelta(seconds=start), zero + timedelta(seconds=end)
        return LabellingRun("labels", "local", 1, ("cpu",), at, until, samples, samples)

    assert pace([ran(0, 10, 20)]) == 2
    assert pace([ran(0, 10, 20), ran(100, 110, 20)]) == 2  # a night between them
    assert pace([ran(0, 10, 20), ran(0, 10, 20), ran(5, 8, 5)]) == 4.5  # side by side
    assert pace([]) is None


@pytest.mark.parametrize(
    ("key", "image"),
    [
        ("mixture/mixture-train-17", "mixture/mixture-train-17"),
        ("mixture/mixture-train-17.2", "mixture/mixture-train-17"),
        ("mixture/busy-mixture-train-17.0", "mixture/busy-mixture-train-17"),
        ("llava_v1_5_mix/llava_v1_5_mix-204-3", "llava_v1_5_mix/llava_v1_5_mix-204"),
        ("scenes/micro-test-4", "scenes/micro-test-4"),
    ],
)
def test_labels_of_one_image_are_known_by_their_keys(key: str, image: str) -> None:
    assert image_of(key) == image


def test_labels_of_one_image_are_no_further_evidence() -> None:
    gaps = np.random.default_rng(3).normal(0.1, 1, 100)
    keys = [f"mixture/mixture-train-{place}" for place in range(100)]
    turns = [f"{key}.{turn}" for key in keys for turn in range(4)]
    once = compared(gaps, list(map(image_of, keys)))["difference"]
    again = compared(np.repeat(gaps, 4), list(map(image_of, turns)))["difference"]
    assert again == pytest.approx(once)


def test_an_audit_finds_the_losses_and_holds_them_against_labels_without_search(
    folder: Path, labels: Path
) -> None:
    where = ("--data", folder / "mix.json", "--images", folder)
    told = parsed("labels", "audit", labels, "--samples", 4, *where)
    assert told["samples"] == 4 and told["largest error of a stored loss"] < 1e-5
    assert set(told["against"]) == {"random", "dpc-knn"}
    assert told["against"]["random"]["difference"]["difference"] > 0  # a search among 48 beats one draw
    text = printed("labels", "audit", labels, "--samples", 2, *where)
    assert "recomputed losses differ from stored ones by at most" in text
    result = run("labels", "audit", labels, "--samples", 2)
    assert result.exit_code == 2 and "is not of the micro mixture" in result.stderr


def test_an_audit_with_another_model_is_refused(folder: Path, labels: Path, tiny_folder: Path) -> None:
    where = ("--data", folder / "mix.json", "--images", folder, "--model", tiny_folder)
    result = run("labels", "audit", labels, "--samples", 2, *where)
    assert result.exit_code == 2 and "were made with another model than" in result.stderr


def test_a_compressor_is_trained_on_labels_of_the_file(folder: Path, labels: Path, tmp_path: Path) -> None:
    few, images = ("--labels", labels, "--epochs", 1, "--batch", 3), ("--images", folder)
    told = parsed("train", *few, "--data", folder / "mix.json", *images, "--out", tmp_path / "made")
    assert told["samples"] == 5  # one of the six is held out
    assert (tmp_path / "made" / "curves.csv").is_file()
    result = run("train", *few, "--out", tmp_path / "other")
    assert result.exit_code == 2 and "is not of the micro mixture: give it with --data" in result.stderr


def test_the_next_command_names_the_same_model() -> None:
    assert of_model("micro", "float32", "native") == ""
    assert of_model("mine", "bfloat16", "native") == " --model mine --dtype bfloat16"


@pytest.mark.parametrize(
    "command", [("labels", "audit", "--samples", "2"), ("train", "--out", "{out}", "--labels")]
)
def test_labels_are_not_put_beside_another_file(
    command: tuple[str, ...], folder: Path, labels: Path, tmp_path: Path
) -> None:
    (tmp_path / "mix.json").write_text((folder / "mix.json").read_text() + "\n")
    asked = [one.format(out=tmp_path / "out") for one in command]
    result = run(*asked, labels, "--data", tmp_path / "mix.json", "--images", folder)
    assert result.exit_code == 2 and f"are of another version of {tmp_path / 'mix.json'}" in result.stderr
    assert not (tmp_path / "out").exists()


def test_an_export_is_a_data_set_with_a_card_and_a_store(labels: Path, tmp_path: Path) -> None:
    printed("labels", "export", labels, "--out", tmp_path / "mine")
    card = (tmp_path / "mine" / "README.md").read_text()
    head = yaml.safe_load(card.split("---")[1])
    assert head["configs"][0]["data_files"] == [{"split": "train", "path": "data/train-*.parquet"}]
    assert (head["pretty_name"], head["size_categories"]) == (
        "Visual tokens to keep: mix, 6 labels",
        ["n<1K"],
    )
    assert "6 labels of\n16 of 144 visual tokens" in card and '| `kind` | "best" |' in card
    (shard,) = (tmp_path / "mine" / "data").iterdir()
    assert shard.name == "train-00000-of-00001.parquet"
    assert pq.read_table(shard).equals(read_labels(labels).table())
    assert read_labels(tmp_path / "mine" / "data").settings == read_labels(labels).settings


def test_the_library_datasets_reads_an_export(labels: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    printed("labels", "export", labels, "--out", tmp_path / "mine")
    rows = datasets.load_dataset(str(tmp_path / "mine"), split="train", cache_dir=str(tmp_path / "cache"))
    assert rows["id"] == [one.id for one in read_labels(labels)]
    assert [tuple(kept) for kept in rows["kept"]] == [one.kept for one in read_labels(labels)]


def test_a_cluster_of_this_machine_makes_the_same_labels(
    folder: Path, manifest: Path, labels: Path, tmp_path: Path
) -> None:
    pytest.importorskip("ray")
    printed(
        "label", "--data", folder / "mix.json", "--images", folder, "--manifest", manifest, "--samples", 3,
        "--engine", "ray", "--out", tmp_path, *FEW,
    )  # fmt: skip
    theirs = {one.id: (one.kept, one.loss_after) for one in read_labels(labels)}
    made = read_labels(tmp_path)
    assert len(made) == 3
    assert all(theirs[one.id] == (one.kept, one.loss_after) for one in made)
    (run,) = made.runs()
    assert (run.engine, run.workers, run.samples, run.total) == ("ray", 1, 3, 3)


def test_labels_of_another_model_train_nothing(tmp_path: Path) -> None:
    labels = SHIPPED / "micro" / "labels" / "best"
    result = run("train", "--labels", labels, "--model", "micro-next", "--out", tmp_path / "out")
    assert result.exit_code == 2 and "were made with another model than micro-next" in result.stderr
    assert "144 visual tokens" in result.stderr and not (tmp_path / "out").exists()
