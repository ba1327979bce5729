"""The benchmarks run; what they measure is not tested, since machines are noisy."""

from __future__ import annotations

import json
import re
from copy import deepcopy
from importlib import import_module
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from bench.speed.cells import main as cells
from bench.speed.engine import main as engine
from bench.speed.equal import main as equal
from bench.speed.figure4 import main as figure4
from bench.speed.forward import main as forward
from bench.speed.gpu import PARTS, Part
from bench.speed.gpu import main as gpu
from bench.speed.labelling import main as labelling
from bench.speed.losses import main as losses
from bench.speed.regions import main as regions
from bench.speed.scale import main as scale
from bench.speed.selection import main as selection
from bench.speed.throughput import main as throughput
from bench.speed.training import main as training
from compress.models.shapes import SHAPES

pytestmark = pytest.mark.slow  # each of them runs a benchmark


def test_selection_is_timed_for_every_method_that_reaches_the_budget(tmp_path: Path):
    out = tmp_path / "selection.json"
    few = ["--rounds", "2", "--methods", "grid,fastv,visionzip,evocomp,tome"]  # 18 is the least of ToMe
    result = CliRunner().invoke(selection, [*few, "--keep", "16", "--out", str(out)])
    assert result.exit_code == 0, result.output
    figures = json.loads(out.read_text())
    assert set(figures["medians_ms"]) == {"grid", "fastv", "visionzip", "evocomp"}
    assert all(len(taken) == 2 for taken in figures["seconds"].values())
    whole, chosen = figures["medians_ms"]["fastv"]
    assert 0 < chosen < whole


def test_throughput_is_timed_for_every_batch_size(tmp_path: Path):
    out = tmp_path / "throughput.json"
    command = ["--method", "grid", "--keep", "16", "--batch", "2,1", "-n", "3", "--rounds", "2"]
    result = CliRunner().invoke(throughput, [*command, "--out", str(out)])
    assert result.exit_code == 0, result.output
    figures = json.loads(out.read_text())
    assert {size: len(taken) for size, taken in figures["seconds"].items()} == {"2": 2, "1": 2}
    assert figures["ratios"]["2"] == [1, 1] and min(figures["ratios"]["1"]) > 0


def test_the_engine_is_timed_beside_deap(tmp_path: Path):
    out = tmp_path / "engine.json"
    result = CliRunner().invoke(engine, ["--rounds", "2", "--generations", "2", "--out", str(out)])
    assert result.exit_code == 0, result.output
    taken = json.loads(out.read_text())["ms_per_generation"]
    assert set(taken) >= {"evosearch", "DEAP eaSimple"} and all(len(each) == 2 for each in taken.values())


@pytest.mark.parametrize("shape", ["", "tiny", "tiny_qwen"])
def test_labelling_is_timed_against_the_naive_loops(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, shape: str
):
    out = tmp_path / "labelling.json"
    small = ["-n", "2", "--rounds", "1", "--naive", "1", "--together", "1,2", "--evaluations", "9"]
    if shape:
        model = request.getfixturevalue(shape).model
        config = deepcopy(model.config)
        if shape == "tiny_qwen":
            config.vision_config.patch_size = 56  # 64 tokens of Qwen's largest image
        monkeypatch.setitem(SHAPES, shape, (type(model), lambda: deepcopy(config)))
        small += ["--shape", shape, "--depth-slice", "2"]
    result = CliRunner().invoke(labelling, [*small, "--out", str(out)])
    assert result.exit_code == 0, result.output
    figures = json.loads(out.read_text())
    assert figures["evaluations"] == 9 and figures["flops_per_sample"] > 0 and figures["peak"] > 0
    ratios = figures["2 together"]["ratios"]
    assert [len(each) for each in ratios] == ([0, 1] if shape else [1, 1])
    stages = figures["stages"]
    assert stages["candidates"]["flops"] > stages["prefix, and all tokens"]["flops"] > 0
    assert stages["group"]["flops"] == 0 < stages["group"]["seconds"]
    assert sum(each["flops"] for each in stages.values()) == pytest.approx(figures["flops_per_sample"])


def test_training_is_timed(tmp_path: Path):
    out = tmp_path / "training.json"
    command = ["-n", "12", "--batch", "4", "--features", "all", "--epochs", "1", "--rounds", "1"]
    result = CliRunner().invoke(training, [*command, "--out", str(out)])
    assert result.exit_code == 0, result.output
    figures = json.loads(out.read_text())["samples_per_second"]
    assert set(figures) == {"4 memory", "4 disk", "4 recompute"}
    assert all(one["embed"] > 0 and one["train"] > 0 for (one,) in figures.values())


def test_scale_out_is_measured_with_every_number_of_workers(tmp_path: Path):
    out = tmp_path / "scale.json"
    command = ["--workers", "1,2", "--seconds", "0.001", "-n", "20", "--engine", "local"]
    result = CliRunner().invoke(scale, [*command, "--out", str(out)])
    assert result.exit_code == 0, result.output
    one, two = json.loads(out.read_text())
    assert (one["workers"], one["samples"], two["workers"], two["samples"]) == (1, 20, 2, 40)
    assert 0 < one["rate"] <= 1000 and one["driver_ms"] > 0


def test_comparisons_are_measured_with_every_number_of_workers(tmp_path: Path):
    out = tmp_path / "cells.json"
    command = ["--workers", "1,2", "--seconds", "0.01", "-n", "4"]
    result = CliRunner().invoke(cells, [*command, "--out", str(out)])
    assert result.exit_code == 0, result.output
    one, two = json.loads(out.read_text())
    assert (one["parts"], two["parts"], one["cells"], two["cells"]) == (4, 8, 2, 4)
    assert 0 < one["rate"] <= 100 and one["driver_ms"] > 0


def test_regions_that_batches_occupy_are_counted_for_every_epoch():
    command = ["--samples", "6", "--batch", "3", "--epochs", "2", "--seeds", "0,1"]
    result = CliRunner().invoke(regions, command)
    assert result.exit_code == 0, result.output
    rows = [line.strip("| ").split(" | ") for line in result.stdout.splitlines()[2:]]
    assert [row[0] for row in rows] == ["0", "1"]
    assert all(0 < float(share) <= 1 for row in rows for share in row[1:]) and len(rows[0]) == 3


def test_both_ways_to_a_loss_are_timed_and_agree():
    result = CliRunner().invoke(losses, ["--candidates", "3", "--keep", "5", "--rounds", "1"])
    assert result.exit_code == 0, result.output
    assert "fast path" in result.stdout and "any decoder" in result.stdout
    assert float(result.stdout.split()[-1]) < 1e-4


@pytest.mark.parametrize(
    "command",
    [
        cells,
        engine,
        equal,
        figure4,
        forward,
        gpu,
        labelling,
        losses,
        regions,
        scale,
        selection,
        throughput,
        training,
    ],
)
def test_the_help_of_an_option_is_a_sentence_that_states_its_default(command: click.Command) -> None:
    for option in command.params:
        assert isinstance(option, click.Option) and option.help and not option.show_default, option.name
        assert option.help.endswith(".") and not re.match(r"(Of|What|So|By) ", option.help), option.help


def test_parts_for_a_gpu_stand_alone_and_are_not_run_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """One that fails leaves its reason; the next run tries it again, and no other."""
    made = tmp_path / "made.json"
    made.write_text('{"rate": 1.0}')
    real = {"selection": PARTS["selection"]}
    broken, mended = (Part("nothing", "", 60, f"json.tool {file} {{out}}") for file in ("nowhere", made))
    monkeypatch.setattr("bench.speed.gpu.PARTS", {"broken": broken, **real})
    told = ["--out", str(tmp_path), "--device", "cpu", "--small"]
    first = CliRunner().invoke(gpu, told)
    assert first.exit_code == 1 and "not measured: broken" in first.output
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert "nowhere" in found["parts"]["broken"]["failed"] and found["environment"]["torch"]
    assert set(found["parts"]["selection"]["figures"]["medians_ms"]) == {"grid", "fastv"}
    monkeypatch.setattr("bench.speed.gpu.PARTS", {"broken": mended, **real})
    again = CliRunner().invoke(gpu, told)
    assert again.exit_code == 0 and again.output.count("done before") == 1
    assert json.loads((tmp_path / "gpu.json").read_text())["parts"]["broken"]["figures"] == {"rate": 1.0}


def test_every_part_for_a_gpu_names_options_that_exist():
    for part in PARTS.values():
        for command in (part.command, part.small):
            module, *options = command.format(device="cpu", out="x").split()
            main = import_module(module).main
            main.make_context(module, options)


def test_a_device_agrees_with_itself(tmp_path: Path):
    out = tmp_path / "equal.json"
    result = CliRunner().invoke(equal, ["-n", "2", "--methods", "grid,evocomp", "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert json.loads(out.read_text()) == {name: {"answers": 1, "tokens": 1} for name in ("grid", "evocomp")}
