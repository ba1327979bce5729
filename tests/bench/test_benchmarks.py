"""The benchmarks run; what they measure is not tested, since machines are noisy."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from bench.benchmarks.selection import main


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
