"""Every recorded case of every official implementation, and that a difference would be noticed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from bench.cli import main
from bench.fidelity import CHECKS, GOLDEN, read_cases, verify
from bench.fidelity.cases import difference

SUBJECTS = sorted(path.stem for path in GOLDEN.glob("*.npz"))


def test_every_recorded_subject_is_checked():
    assert sorted(CHECKS) == SUBJECTS


def test_the_page_on_fidelity_counts_the_recorded_cases():
    page = Path(__file__).parents[2].joinpath("docs", "fidelity.md").read_text(encoding="utf-8")
    assert f"All {sum(len(read_cases(GOLDEN, one)) for one in SUBJECTS)} recorded cases" in page


@pytest.mark.parametrize("subject", SUBJECTS)
def test_our_code_gives_what_the_official_code_gave(subject: str):
    verdicts = list(verify(GOLDEN, {subject: CHECKS[subject]}))
    assert len(verdicts) == len(read_cases(GOLDEN, subject)) > 0
    assert [verdict.difference for verdict in verdicts] == [None] * len(verdicts)
    recorded = 1 if subject == "prunevid_llm" else 2  # or more outputs
    assert all(verdict.compared >= recorded for verdict in verdicts)


def test_a_difference_is_named_with_its_place():
    expected = torch.tensor([[1, 2], [3, 4]])
    assert difference("kept", expected, expected.clone()) is None
    assert difference("kept", expected, torch.tensor([[1, 2], [5, 4]])) == "kept[1, 0]: 5, recorded 3"
    assert difference("kept", expected, torch.tensor([1, 2])) == "kept: shape [2], recorded [2, 2]"
    assert difference("loss", torch.tensor(1.0), 1.01) == "loss: 1.0099999904632568, recorded 1.0"


def test_floats_may_differ_within_the_tolerance_of_their_kind():
    expected = torch.tensor([1.0])
    assert difference("output_tokens", expected, expected + 5e-5) is None
    assert difference("cls_attention", expected, expected + 5e-5) is not None
    assert difference("output_tokens", expected, torch.tensor([torch.nan])) is not None


def spoilt(folder: Path, subject: str, name: str) -> Path:
    """A folder with one subject whose first case has another expected value."""
    with np.load(GOLDEN / f"{subject}.npz") as file:
        arrays = {key: file[key] for key in file.files}
    arrays[f"case0/{name}"] = arrays[f"case0/{name}"] + 1
    np.savez(folder / f"{subject}.npz", **arrays)
    return folder


def test_the_command_prints_a_table_and_exits_with_0():
    result = CliRunner().invoke(main, ["verify"])
    assert result.exit_code == 0, result.output
    assert all(subject in result.output for subject in SUBJECTS)


def test_the_command_exits_with_1_and_names_the_first_difference(tmp_path: Path):
    shutil.copy(GOLDEN / "visionzip.npz", tmp_path)
    result = CliRunner().invoke(
        main, ["verify", "--golden", str(spoilt(tmp_path, "fastv", "kept_image_indices"))]
    )
    assert result.exit_code == 1 and "kept_image_indices[0]" in result.output
    told = CliRunner().invoke(main, ["verify", "--golden", str(tmp_path), "--json"])
    rows = json.loads(told.stdout)
    assert [row["subject"] for row in rows if row["difference"]] == ["fastv"]


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "no recorded cases"), (b"nonsense", "not a readable .npz"), ({"x": 1}, "no 'n_cases'")],
)
def test_a_folder_of_another_form_is_one_clear_line(tmp_path: Path, content, words: str):
    if isinstance(content, bytes):
        (tmp_path / "fastv.npz").write_bytes(content)
    elif content:
        np.savez(tmp_path / "fastv.npz", **content)
    result = CliRunner().invoke(main, ["verify", "--golden", str(tmp_path)])
    assert result.exit_code == 2 and words in result.output and result.output.count("\n") == 1


def test_a_case_without_an_array_is_one_clear_line(tmp_path: Path):
    with np.load(GOLDEN / "fastv.npz") as file:
        arrays = {key: file[key] for key in file.files if key != "case0/num_keep"}
    np.savez(tmp_path / "fastv.npz", **arrays)
    result = CliRunner().invoke(main, ["verify", "--golden", str(tmp_path)])
    assert result.exit_code == 2 and "case 0 lacks the array 'num_keep'" in result.output
