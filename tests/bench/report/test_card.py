"""A comparison's card tells from its folder alone how it was measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from baselines import METHODS
from bench.cli import main
from bench.evaluation.cells import CellKey, Cells
from bench.evaluation.evaluate import Outcome
from bench.evaluation.origin import Origin
from bench.evaluation.protocol import of_method
from bench.report.card import departures
from compress.samples import Sample

RUN: dict[str, Any] = {
    "model": "abc", "dtype": "float16", "device": "cuda", "visual tokens": 16, "prompt": "USER: <image>? A:",
    "match": "tokens", "positions": "each method's own", "batch": 4, "gqa: protocol": "llava",
    "gqa: split": "testdev", "gqa: version": 1, "gqa: metric": "accuracy", "gqa: n": 12,
    "gqa: samples": "0123456789ab",
}  # fmt: skip


@pytest.fixture
def folder(make_outcome: Callable[..., Outcome], tmp_path: Path) -> Path:
    fastv = {
        "class": "FastV", "positions": "original", "adaptive": False, "layer": 3, "code": "c0de",
        "choices": ["layer 1 of 4"],
    }  # fmt: skip
    place = tmp_path / "tables"
    cells = Cells(place, RUN, {"none": {"class": "KeepAll"}, "fastv:layer=3": fastv})
    samples = [Sample(f"gqa-{i}", None, "?", ("right",)) for i in range(12)]  # type: ignore[arg-type]
    images = [f"image {i // 2}" for i in range(12)]
    right = make_outcome("gqa", [1.0] * 12, entering=[16] * 4, kept=range(16), images=images)
    cells.add(CellKey("none", 16, "gqa"), samples, right)
    cells.add(
        CellKey("fastv:layer=3", 4, "gqa"), samples,
        make_outcome("gqa", [1.0] * 6 + [0.0] * 6, entering=[16, 4, 4, 4], images=images),
    )  # fmt: skip
    facts = {"model": "llava", "fingerprint": "abc", "attention kernel": "sdpa"}
    facts["data: gqa"] = "split testdev: gqa/questions.json, 9 bytes, sha256 0123"
    Origin("A table", facts, ["evocomp compare --keep 4"], reference="fastv:layer=3").save(place)
    return place


def test_a_card_answers_how_it_was_measured(folder: Path) -> None:
    told = CliRunner().invoke(main, ["card", str(folder)], catch_exceptions=False)
    assert told.exit_code == 0
    for line in (
        "# A table", "- model: llava", "- attention kernel: sdpa", "- dtype: float16", "- batch: 4",
        r"- prompt: USER: \<image\>? A:",
        "Equal across methods: visual tokens left after a method's last stage.",
        "| fastv:layer=3 | 4 | 16 × 1, 4 × 3 | 7.0 | 4.0 |",
        "| gqa | llava | testdev | 1 | accuracy | 12 | – | – | 12 | 6 | 0123456789ab |",
        "- Reference: fastv:layer=3.", "positions original; layer=3; departures: the paper ranks by",
        "on this model: layer 1 of 4", "evocomp compare --keep 4", "- torch: ",
    ):  # fmt: skip
        assert line in told.stdout, line
    assert "c0de" not in told.stdout
    assert "## Data\n\n- gqa: split testdev: gqa/questions.json, 9 bytes, sha256 0123\n\n" in told.stdout
    assert "Beside published numbers" not in told.stdout


def test_a_card_names_the_split_of_a_miniature(make_outcome: Callable[..., Outcome], tmp_path: Path) -> None:
    cells = Cells(tmp_path, {**RUN, "gqa: split": None}, {"none": {"class": "KeepAll"}})
    samples = [Sample(f"gqa-val-{i}", None, "?", ("right",)) for i in range(12)]  # type: ignore[arg-type]
    outcome = replace(make_outcome("gqa", [1.0] * 12), samples=tuple(one.id for one in samples))
    cells.add(CellKey("none", 16, "gqa"), samples, outcome)
    Origin("A table", {"model": "micro"}, ["evocomp compare --split val"]).save(tmp_path)
    told = CliRunner().invoke(main, ["card", str(tmp_path)], catch_exceptions=False)
    assert "| gqa | llava | val |" in told.stdout


def test_a_card_has_published_numbers_of_the_same_model_and_budget(
    folder: Path, make_outcome: Callable[..., Outcome]
) -> None:
    place = folder.parent / "other"
    run = {**RUN, "visual tokens": 576, "gqa: split": None}
    methods = {"none": of_method(METHODS["none"]()), "divprune": of_method(METHODS["divprune"]())}
    cells = Cells(place, run, methods)
    samples = [Sample(f"gqa-{i}", None, "?", ("right",)) for i in range(12)]  # type: ignore[arg-type]
    for name, keep in (("none", 576), ("divprune", 64)):
        made = make_outcome("gqa", [1.0] * 12, entering=[keep] * 4, kept=range(keep))
        cells.add(CellKey(name, keep, "gqa"), samples, made)
    facts = {"model": "llava-hf/llava-1.5-7b-hf", "fingerprint": "abc"}
    Origin("A table", facts, [], reference="divprune").save(place)
    told = CliRunner().invoke(main, ["card", str(place)], catch_exceptions=False).stdout
    assert "| divprune | 64 | 100.0 (57.5) |" in told
    assert "CDPruner, arXiv 2506.10967" in told


def test_it_may_be_written_to_a_file(folder: Path, tmp_path: Path) -> None:
    told = CliRunner().invoke(main, ["card", str(folder), "--out", str(tmp_path / "card.md")])
    assert told.exit_code == 0 and (tmp_path / "card.md").read_text().startswith("# A table")
    told = CliRunner().invoke(main, ["card", str(tmp_path)])
    assert told.exit_code == 2 and "no results here" in told.output


def test_departures_are_a_paragraph_of_the_docstring() -> None:
    assert departures("Keep.\n\n    Departures: one\n    and two.\n\n    More.") == "departures: one and two."
    assert departures("Keep.") == ""
    assert departures(METHODS["fastv"].__doc__ or "").startswith("departures: the paper ranks by attention")
