"""The demo in little: a few labels, one epoch, one budget."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from bench import demo
from bench.cli import main
from bench.evaluation.origin import Origin
from compress.compressor.network import Compressor

pytestmark = pytest.mark.slow


@pytest.mark.skipif(
    torch.backends.cuda.is_built(), reason="this build of torch trains in no process forked after training"
)
@pytest.mark.usefixtures("little_demo")
@pytest.mark.parametrize("model", demo.SCRIPTS)
def test_it_labels_trains_and_compares(tmp_path: Path, model: str) -> None:
    out = tmp_path / "demo"
    few = ["--fresh", "2", "-n", "4", "--workers=2"]
    ran = CliRunner().invoke(main, ["demo", "--model", model, "--out", str(out), *few])

    assert ran.exit_code == 0, ran.output
    script = demo.SCRIPTS[model]
    rows = {row["method"] for row in json.loads((out / "results.json").read_text())["rows"]}
    assert rows == {"none", *script.controls, *script.rows}
    for kind in script.recipes:
        assert Compressor.load(out / "compressors" / kind)
    assert "6 best" in ran.output and "8 random" in ran.output  # shipped and reused; all labelled now
    assert (out / "report.html").stat().st_size > 100_000
    (command,) = Origin.read(out).commands
    assert command.startswith("evocomp demo") and "--workers=2" in command


@pytest.mark.usefixtures("little_demo")
def test_it_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = ["demo", "--out", str(tmp_path / "demo"), "--fresh", "2", "-n", "4", "--workers=1"]
    first = CliRunner().invoke(main, given)
    table = (tmp_path / "demo" / "table.md").read_text()

    def again(*_: object, **__: object) -> None:
        raise AssertionError("searched or asked again")

    monkeypatch.setattr("compress.labels.labelling.Labeller.many", again)
    monkeypatch.setattr("bench.evaluation.cellwork.CellWork.__call__", again)
    second = CliRunner().invoke(main, given)

    assert (first.exit_code, second.exit_code) == (0, 0), second.output
    assert (tmp_path / "demo" / "table.md").read_text() == table
