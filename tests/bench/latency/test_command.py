"""`evocomp bench latency` from end to end; what it measures is not tested, since machines are noisy."""

from __future__ import annotations

import csv
import json
import re
from functools import partial
from pathlib import Path

import click
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from transformers import CLIPVisionConfig, LlamaConfig, LlavaNextConfig, LlavaNextForConditionalGeneration

from bench.cli import main
from bench.commands.bench import TIMINGS, bench
from bench.latency.request import LatencyRunner
from bench.latency.rounds import FILE
from bench.speed.figure4 import main as figure4
from compress.models import shapes
from tests import cli

QUICK = ("--repetitions", 2, "--warmup", 0, "--new", 2)
run, parsed, refused = (partial(each, "bench", "latency") for each in (cli.run, cli.parsed, cli.refused))


def tiny_next() -> LlavaNextConfig:
    """Five tiles of 36 patches."""
    clip = CLIPVisionConfig(
        hidden_size=48, intermediate_size=96, num_hidden_layers=4, num_attention_heads=4, image_size=24,
        patch_size=4, projection_dim=32,
    )  # fmt: skip
    llama = LlamaConfig(
        vocab_size=100, hidden_size=64, intermediate_size=128, num_hidden_layers=8, num_attention_heads=4,
        num_key_value_heads=4, max_position_embeddings=1024,
    )  # fmt: skip
    return LlavaNextConfig(
        vision_config=clip, text_config=llama, image_grid_pinpoints=[[48, 48]], image_token_index=99
    )


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(shapes.SHAPES, "small", (LlavaNextForConditionalGeneration, tiny_next))


@pytest.mark.parametrize("name", TIMINGS)
def test_the_example_in_the_help_parses(name: str):
    text = CliRunner().invoke(main, ["bench", name, "--help"]).output
    example = text.partition("Example:\n")[2].strip().splitlines()[0].split()
    assert example[:3] == ["evocomp", "bench", name]
    found = bench.get_command(click.Context(bench), name)  # type: ignore[attr-defined]
    found.make_context(name, example[3:], obj="")


def test_a_run_leaves_tables_raw_times_and_pictures(tmp_path: Path):
    result = run("--methods", "grid,fastv", "--keep", "48,16", *QUICK, "--out", tmp_path)
    assert result.exit_code == 0, result.stderr or result.exception
    lines = [line.split() for line in result.stdout.splitlines()]
    for expected in (["none", "144"], ["grid", "48"], ["fastv", "16"]):
        assert [line for line in lines if line[:2] == expected]
    assert "break-even: the most visual tokens" in result.stdout and "few repetitions (2)" in result.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "latency.csv", "latency.html", "latency.md", "pictures", "results.json", FILE,
    ]  # fmt: skip
    with Image.open(tmp_path / "pictures" / "cost.png") as drawn:
        assert drawn.width > 500
    found = json.loads((tmp_path / "results.json").read_text())
    assert [(row["method"], row["keep"]) for row in found["rows"]] == [
        ("none", 144), ("grid", 48), ("fastv", 48), ("grid", 16), ("fastv", 16),
    ]  # fmt: skip
    for row in found["rows"]:
        assert [one["round"] for one in row["samples"]] == [0, 1]
        assert all(one["total"] > one["first"] > one["prefill"] > 0 for one in row["samples"])
        assert row["seconds"]["total"]["p99"] is None
        assert row["joules"] is None  # nobody counts them on a CPU
    assert found["rows"][1]["ledger"]["entering"] == [48] * 12
    assert not found["rows"][0]["speedups"] and set(found["rows"][1]["speedups"]) == {
        "prefill with selection", "first token", "total",
    }  # fmt: skip
    facts = found["facts"]
    assert (facts["model"], facts["device"], facts["dtype"], facts["batch"]) == ("micro", "cpu", "float32", 1)
    assert facts["attention"] == "sdpa" and facts["driver"] is None and facts["torch"] == torch.__version__
    assert facts["command"].startswith("evocomp bench latency --methods grid,fastv")
    with (tmp_path / "latency.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 5 * 8 and {row["stage"] for row in rows} >= {"vision", "selection", "other", "total"}
    told = (tmp_path / "latency.md").read_text()
    assert "| grid | 48 | 48.0 |" in told
    assert "| total: times faster at | 48 | 16 |" in told
    fastv = [row["speedups"]["total"]["times"] for row in found["rows"] if row["method"] == "fastv"]
    assert f"| fastv | {fastv[0]:.2f} | {fastv[1]:.2f} |" in told


def test_a_rerun_times_only_what_is_new(tmp_path: Path, monkeypatch):
    parsed("--methods", "grid", "--keep", 48, *QUICK, "--out", tmp_path)
    assert "clock is 'wall' there and 'processor' here" in refused(
        "--methods", "grid", "--keep", 48, *QUICK, "--clock", "processor", "--out", tmp_path
    )
    shots = []
    shoot = LatencyRunner.shoot
    monkeypatch.setattr(
        LatencyRunner, "shoot", lambda rig, cell: shots.append(cell.method) or shoot(rig, cell)
    )
    parsed("--methods", "grid", "--keep", 48, *QUICK, "--out", tmp_path)
    assert shots == []
    found = parsed("--methods", "grid,random", "--keep", 48, *QUICK, "--out", tmp_path)
    assert sorted(shots) == ["none", "none", "random", "random"]
    assert [row["n"] for row in found["rows"]] == [4, 2, 2]
    other = refused("--methods", "grid", "--keep", 48, *QUICK, "--batch", 2, "--out", tmp_path)
    assert "batch is 1 there and 2 here" in other
    monkeypatch.setattr("bench.latency.run.fingerprint", lambda *starts: "other")
    assert "timed by other code" in refused("--methods", "grid", "--keep", 48, *QUICK, "--out", tmp_path)


@pytest.mark.slow
def test_shapes_are_labelled_and_all_their_methods_run(tmp_path: Path):
    """Five tiles, random weights, two at once, another dtype; what cannot be is told in words."""
    found = parsed(
        "--shape", "small", "--depth-slice", 6, "--dtype", "bfloat16", "--batch", 2, "--keep", 60, *QUICK,
        "--text", 10,
    )  # fmt: skip
    assert "small shape, random weights, slice of 6 of 8 decoder layers and 3 of 4 tower layers" in str(
        found["facts"]["model"]
    )
    assert found["facts"]["weights"] == "random" and found["facts"]["compressor"] == "random"
    assert (found["facts"]["visual tokens"], found["facts"]["text tokens"]) == (180, 10)
    timed = {row["method"] for row in found["rows"]}
    assert {"none", "fastv", "visionzip", "hired", "globalcom2", "tome", "evocomp"} <= timed
    averages = {row["method"]: row["ledger"]["average"] for row in found["rows"][1:]}
    assert averages == dict.fromkeys(averages, pytest.approx(60, abs=1.5)), averages
    assert all(one["why"] for one in found["impossible"])


def test_a_scene_fills_the_largest_image_and_others_are_refused(tmp_path: Path):
    """micro-next sees 192 pixels a side and makes fewer tokens of less."""
    found = parsed("--model", "micro-next", "--methods", "grid", "--keep", 48, *QUICK)
    assert found["facts"]["visual tokens"] == 744 and 0 < found["facts"]["text tokens"] < 40
    Image.new("RGB", (40, 200)).save(tmp_path / "long.png")
    said = refused("--model", "micro-next", "--methods", "grid", "--image", tmp_path / "long.png")
    assert "long.png of 40 x 200 pixels has 468 visual tokens and micro-next is timed with 744" in said
    assert "give an image of 192 x 192 pixels" in said


def test_fast_modes_are_rows_of_their_own_against_their_own_vanilla():
    found = parsed("--methods", "grid,fastv", "--keep", 48, "--modes", "eager,static", *QUICK)
    assert [(row["method"], row["mode"]) for row in found["rows"]] == [
        ("none", "eager"), ("none", "static"), ("grid", "eager"), ("grid", "static"), ("fastv", "eager"),
    ]  # fmt: skip
    (one,) = found["impossible"]
    assert (one["method"], one["mode"]) == ("fastv", "static")
    assert "drops tokens between the decoder's layers: only eager" in one["why"]


def test_accuracy_is_drawn_against_latency(tmp_path: Path):
    scored = tmp_path / "tables"
    scored.mkdir()
    summary = [
        {"method": "none", "keep": 144, "average": 100.0},
        {"method": "grid", "keep": 48, "average": 90.5},
        {"method": "grid", "keep": 16, "average": None},
    ]
    (scored / "results.json").write_text(json.dumps({"summary": summary}))
    out = tmp_path / "out"
    found = parsed("--methods", "grid", "--keep", "48,16", *QUICK, "--accuracy", scored, "--out", out)
    assert {"method": "grid", "keep": 48, "share": 90.5} in found["accuracy"]
    assert (out / "pictures" / "accuracy.png").exists()
    (scored / "results.json").write_text("{}")
    assert "summary is missing; give the --out folder of evocomp compare" in refused("--accuracy", scored)


def test_out_of_memory_is_told_per_cell_and_the_run_goes_on(monkeypatch):
    shoot = LatencyRunner.shoot

    def full(rig: LatencyRunner, cell):
        if cell.method == "random":
            raise torch.OutOfMemoryError("CUDA out of memory")
        return shoot(rig, cell)

    monkeypatch.setattr(LatencyRunner, "shoot", full)
    found = parsed("--methods", "random,grid", "--keep", 48, *QUICK)
    assert [row["method"] for row in found["rows"]] == ["none", "grid"]
    (one,) = found["impossible"]
    assert (one["method"], one["why"]) == ("random", "out of memory")


def test_a_model_that_does_not_fit_is_one_line(monkeypatch):
    def full(*_: object, **__: object) -> None:
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr("compress.models.shapes.build", full)
    assert "small in float32 does not fit into the memory of cpu: choose --depth-slice N" in refused(
        "--shape", "small"
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_one_line():
    for options in ((), ("--shape", "small")):
        assert re.search(
            "--device cuda cannot be used here .*: try cpu or cuda", refused("--device", "cuda", *options)
        )


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--methods", "fastvv"), "unknown method 'fastvv'; did you mean 'fastv'?"),
        (("--methods", "fastvv", "--shape", "llava-1.5-13b"), "did you mean 'fastv'?"),
        (("--keep", 144), "--keep 144: choose between 1 and 143"),
        (("--keep", "100%"), "--keep 144: choose between 1 and 143"),
        (("--keep", "16,0"), "a count of visual tokens from 1"),
        (("--keep", "x"), "write budgets with commas"),
        (("--modes", "fast"), "unknown mode 'fast'"),
        (("--modes", "graphs"), "choose --device cuda, or other modes"),
        (("--shape", "smal"), "unknown shape 'smal'; did you mean 'small'?"),
        (("--shape", "small", "--depth-slice", 9), "depth slice 9: choose 1 to 8 decoder layers"),
        (("--depth-slice", 2), "--depth-slice needs --shape"),
        (("--text", 20), "--text needs --shape"),
        (
            ("--shape", "small", "--image", "micro:3", "--model", "micro"),
            "--model, --image: not with --shape",
        ),
        (("--image", "nowhere.png"), "there is no image at nowhere.png"),
        (("--question", " "), "the question is empty"),
        (("--repetitions", 1), "1 is not in the range 2<=x<=1000000000"),
    ],
)
def test_mistakes_are_one_line(options: tuple, said: str):
    assert said in refused(*options)


def test_nothing_possible_is_an_error_with_its_reason(tmp_path: Path):
    found = parsed("--methods", "fastv", "--keep", 5, *QUICK)
    assert [row["method"] for row in found["rows"]] == ["none"]
    assert "keep=5 is out of reach for FastV" in found["impossible"][0]["why"]


def test_figure_4_works_in_small(tmp_path: Path):
    options = (
        "--shape small --device cpu --dtype float32 --keep 60,20 --fast evocomp --modes static --text 10 "
        "--methods none,fastv:layer=3,queries=last,evocomp --new 2 --repetitions 2 --warmup 0"
    )
    result = CliRunner().invoke(figure4, [*options.split(), "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["eager", "fast"]
    eager = json.loads((tmp_path / "eager" / "results.json").read_text())
    assert {row["method"] for row in eager["rows"]} == {"none", "fastv:layer=3,queries=last", "evocomp"}
    fast = json.loads((tmp_path / "fast" / "results.json").read_text())
    assert {(row["method"], row["mode"]) for row in fast["rows"]} == {
        ("none", "static"),
        ("evocomp", "static"),
    }
    said = [line for line in result.output.splitlines() if "hoped for is" in line]
    assert len(said) == 2 and said[0].startswith("prefill with selection at 20 tokens: ")
    assert "the paper has 4.1" in said[0] and "the paper has 2.6" in said[1]
