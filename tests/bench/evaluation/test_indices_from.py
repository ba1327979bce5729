"""Tokens chosen on another model, and compressors of another width: what commands compute and say."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from baselines import METHODS
from bench.evaluation.cells import read_cells
from bench.evaluation.evaluate import evaluate
from bench.tasks import TASKS
from compress.compressor.evocomp import EvoComp
from compress.compressor.network import Compressor
from compress.models.loading import MLLM
from tests.cli import parsed, refused, run

SOME = ("--tasks", "gqa", "-n", 6)


@pytest.fixture(scope="module")
def compressor(tiny: MLLM, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("compressor")
    torch.manual_seed(0)
    Compressor.from_decoder(tiny.decoder).save(folder)
    return folder


def test_evaluation_keeps_what_the_other_model_chose(tiny: MLLM, tiny_wide: MLLM):
    task = TASKS["gqa"]()
    samples, method = task.micro(6), METHODS["farthest"]()
    there, own = (evaluate(one, task, samples, method, 20) for one in (tiny, tiny_wide))
    found = evaluate(tiny_wide, task, samples, method, 20, source=tiny, batch=4)
    assert found.kept == there.kept != own.kept
    assert found.ledger.shape == own.ledger.shape and found.ledger.selection == 0
    with pytest.raises(ValueError, match="the cost of selecting on another model cannot be counted"):
        evaluate(tiny_wide, task, samples, method, 20, source=tiny, match="flops")


def test_eval_names_the_model_that_chose(tiny: MLLM, tiny_wide: MLLM, compressor: Path):
    command = ("eval", *SOME, "--model", tiny_wide.name, "--keep", 20, "--method", "evocomp")
    given = (*command, "--compressor", compressor, "--indices-from", tiny.name)
    (found,) = parsed(*given)
    assert found["method"] == "evocomp (indices from tiny)"
    assert found["indices_from"] == f"{tiny.name} {tiny.fingerprint()[:16]}"
    assert found["tokens"] == 20 and found["choices"] == []
    assert "evocomp (indices from tiny), keep 20" in run(*given).stdout


def test_eval_says_that_a_compressor_was_transferred(tiny: MLLM, tiny_wide: MLLM, compressor: Path):
    command = ("eval", *SOME, "--keep", 20, "--method", "evocomp", "--compressor", compressor)
    (found,) = parsed(*command, "--model", tiny_wide.name)
    (choice,) = found["choices"]
    assert choice == "transferred: embeddings of width 80 are pooled to the compressor's 64"
    assert found["indices_from"] is None and found["tokens"] == 20
    assert f"on this model: {choice}" in run(*command, "--model", tiny_wide.name).stdout
    assert "transferred" not in run(*command, "--model", tiny.name).stdout
    task = TASKS["gqa"]()
    alone = evaluate(tiny_wide, task, task.micro(6), EvoComp(str(compressor)), 20)
    assert found["score"] == alone.score


def test_compare_puts_own_and_foreign_choices_side_by_side(
    tiny: MLLM, tiny_wide: MLLM, compressor: Path, tmp_path: Path
):
    out = tmp_path / "tables"
    command = (
        "compare", *SOME, "--model", tiny_wide.name, "--keep", "40,20", "--compressor", compressor,
        "--out", out, "--methods",
    )  # fmt: skip
    parsed(*command, "evocomp,grid,pool")
    found = parsed(*command, "evocomp,grid,pool", "--indices-from", tiny.name, "--reference", "grid")
    assert found["reference"] == "grid (indices from tiny)"
    foreign = "evocomp (indices from tiny)"
    assert found["methods"][foreign]["indices from"] == f"{tiny.name} {tiny.fingerprint()[:16]}"
    (line,) = (line for line in found["notes"] if line.startswith("Chosen on another model"))
    assert line.endswith(
        "at a cost that is not counted: evocomp (indices from tiny), grid (indices from tiny), "
        "pool (indices from tiny)."
    )
    (why,) = {one["why"] for one in found["impossible"]}
    assert why.startswith("Pool makes new tokens")
    cells = {(cell.key.method, cell.key.keep): cell for cell in read_cells(out)}
    own, other = (cells[name, 20].outcome for name in ("evocomp", foreign))
    assert own and other and own.kept != other.kept and own.tokens == other.tokens == 20
    assert cells["grid", 20].outcome.kept == cells["grid (indices from tiny)", 20].outcome.kept  # type: ignore[union-attr]
    joined = parsed("table", out, "--reference", "evocomp")
    rows = {row["method"]: row for row in joined["summary"] if row["keep"] == 20}
    assert rows[foreign]["reference"]["rival"] == "evocomp"
    assert any("Chosen on another model" in note for note in joined["notes"])
    assert any("transferred: " in note and "(evocomp)" in note for note in joined["notes"])


def test_another_source_under_the_same_name_is_refused(
    tiny: MLLM, tiny_wide: MLLM, tiny_folder: Path, tmp_path: Path
):
    import shutil

    command = (
        "compare", *SOME, "--model", tiny_wide.name, "--keep", 20, "--methods", "grid", "--out",
        tmp_path / "tables", "--indices-from",
    )  # fmt: skip
    parsed(*command, tiny.name)
    (tmp_path / "other").mkdir()
    twin = shutil.copytree(tiny_wide.name, tmp_path / "other" / "tiny")
    assert "indices from is" in refused(*command, twin)


def test_models_whose_tokens_differ_are_refused(tiny: MLLM, tiny_next: MLLM, tmp_path: Path):
    for command in (("eval", "--method"), ("compare", "--out", tmp_path / "out", "--methods")):
        message = refused(
            *command, "grid", *SOME, "--keep", 20, "--model", tiny.name, "--indices-from", tiny_next.name
        )
        assert "indices from" in message and "choose two models with the same" in message
    assert not (tmp_path / "out").exists()


def test_methods_name_what_they_do_where_papers_are_silent(tiny_next: MLLM, tiny_qwen: MLLM):
    told = {row["name"]: row for row in parsed("methods", "--model", tiny_next.name, "--keep", 90)}
    assert told["none"]["choices"] == []
    for name in set(METHODS) - {"none", "evocomp", "evocomp+"}:  # none is shipped for this model
        assert told[name]["choices"], name
        assert any("newlines" in choice for choice in told[name]["choices"])
    assert "tiles are compressed one by one, with equal budgets" in told["visionzip"]["choices"]
    fixed = parsed("methods", "--model", tiny_next.name, "--keep", 90, "--anyres", "fixed")
    assert not any("newlines" in choice for row in fixed for choice in row["choices"])
    told = {row["name"]: row for row in parsed("methods", "--model", tiny_qwen.name, "--keep", 90)}
    assert any("positions stay original" in choice for choice in told["pyramiddrop"]["choices"])
    assert told["visionzip"][f"runs on {tiny_qwen.name}"].startswith("no: ")
    assert "acts before decoder layers 1 of 6, the paper's 2 of 32" in told["fastv"]["choices"]


@pytest.mark.parametrize(
    "command",
    [
        ("ask", "micro:3", "how many ?", "--method", "grid"),
        ("search", "micro:3", "how many ?", "--evaluations", 48),
        ("eval", *SOME, "--method", "grid"),
        ("compare", *SOME, "--methods", "grid"),
        ("list", "methods"),
    ],
    ids=lambda command: command[0],
)
def test_a_fixed_grid_is_a_choice_of_every_command(tiny: MLLM, tiny_next: MLLM, command: tuple[object, ...]):
    keep = ("--keep", 180)  # all that a fixed grid has
    assert run(*command, *keep, "--model", tiny_next.name, "--anyres", "fixed").exit_code == 0
    message = refused(*command, *keep, "--model", tiny.name, "--anyres", "fixed")
    assert "has no fixed grid: leave anyres at 'native'" in message
    assert "'nativ' is not one of 'native', 'fixed'" in refused(*command, "--anyres", "nativ")


@pytest.mark.parametrize("size", ["0", "-1", "many", "1.5"])
def test_a_batch_is_a_number_or_auto(size: str):
    message = refused("eval", *SOME, "--batch", size)
    assert f"'{size}': write a whole number from 1, or auto" in message
