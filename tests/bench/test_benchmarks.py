"""The benchmarks run; what they measure is not tested, since machines are noisy."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from bench.benchmarks.selection import main
from bench.benchmarks.throughput import main as throughput


@pytest.mark.parametrize("keep", [48, 16])
def test_selection_is_timed_for_every_method(tmp_path: Path, keep: int):
    out = tmp_path / "selection.json"
    result = CliRunner().invoke(main, ["--rounds", "2", "--keep", str(keep), "--out", str(out)])
    assert result.exit_code == 0, result.output
    figures = json.loads(out.read_text())
    assert set(figures["medians_ms"]) >= {"grid", "fastv", "visionzip", "evocomp"}
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
