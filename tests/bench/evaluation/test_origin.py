from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from bench.evaluation.history import Times
from bench.evaluation.origin import FILE, Origin, joined

ONE = Origin("one", {"python": "3.11", "cpu": "two cores"}, ["evocomp compare --keep 4"], {}, "ours", "grid")


def test_it_comes_back_with_the_commands_before_it(tmp_path: Path) -> None:
    ONE.save(tmp_path)
    later = replace(ONE, commands=["evocomp compare --keep 4,2"]).save(tmp_path)
    assert later.commands == ["evocomp compare --keep 4", "evocomp compare --keep 4,2"]
    assert Origin.read(tmp_path) == later
    assert ONE.save(tmp_path).commands == later.commands, "no command twice"


def test_what_belongs_to_one_run_is_kept_apart(tmp_path: Path) -> None:
    saved = ONE.save(tmp_path, {"labels": 2.5})
    result = (tmp_path / FILE).read_bytes()
    assert not {"commands", "date"} & json.loads(result).keys()
    times = Times.read(tmp_path)
    assert (times.commands, times.seconds) == (list(ONE.commands), {"labels": 2.5})
    assert times.runs[0].date.endswith("UTC") and saved.facts["torch"] == times.environment["torch"]
    ONE.save(tmp_path)
    assert (tmp_path / FILE).read_bytes() == result
    assert len(Times.read(tmp_path).runs) == 2


def test_a_folder_of_the_version_before_keeps_its_commands(tmp_path: Path) -> None:
    before = {"title": "one", "facts": {"date": "2026-01-01"}, "commands": ["evocomp compare --keep 9"]}
    (tmp_path / FILE).write_text(json.dumps(before))
    read = Origin.read(tmp_path)
    assert (read.commands, read.facts) == (before["commands"], before["facts"])
    assert ONE.save(tmp_path).commands == [*before["commands"], *ONE.commands]
    assert Origin.read(tmp_path).commands == [*before["commands"], *ONE.commands]


def test_a_folder_can_be_moved_with_its_plots(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    (tmp_path / "outside.png").write_bytes(b"a picture")
    far = tmp_path / "outside.png"
    replace(ONE, plots={"loss": str(here / "curves.png"), "far": str(far)}).save(here)
    here.rename(there)
    far.unlink()
    plots = Origin.read(there).plots
    assert plots["loss"] == str(there / "curves.png")
    assert Path(plots["far"]).read_bytes() == b"a picture", "it was copied into the folder"


@pytest.mark.parametrize("place", ["../secret.png", "/etc/hostname", "link.png"])
def test_no_plot_from_outside_its_folder_is_shown(place: str, tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(b"secret")
    run = tmp_path / "run"
    run.mkdir()
    (run / "link.png").symlink_to(tmp_path / "secret.png")
    (run / FILE).write_text(json.dumps({"title": "x", "facts": {}, "plots": {"x": place}}))
    with pytest.raises(ValueError, match=r"run\.json: plots\.x is .*not below"):
        Origin.read(run)


def test_a_fifo_is_no_plot(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "loss.png")
    (tmp_path / FILE).write_text(json.dumps({"title": "x", "facts": {}, "plots": {"x": "loss.png"}}))
    with pytest.raises(ValueError, match=r"loss\.png: this is a FIFO"):
        Origin.read(tmp_path)


def test_an_unfinished_comparison_has_little_to_say(tmp_path: Path) -> None:
    assert Origin.read(tmp_path / "run") == Origin("run", {})


@pytest.mark.parametrize(
    "content", ["", "[" * 100_000, "[]", "{}", '{"title": 1, "facts": {}}', '{"plots": []}']
)
def test_other_files_are_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / FILE).write_text(content)
    with pytest.raises(ValueError, match=r"run.json: .*not what evocomp compare --out writes"):
        Origin.read(tmp_path)


def test_facts_that_differ_are_listed_and_the_first_has_the_say() -> None:
    other = Origin("two", {"python": "3.12", "gpu": "none"}, ["evocomp demo"], {"loss": "a.png"}, "theirs")
    both = joined([ONE, other])
    assert (both.title, both.reference, both.difficulty) == ("one; two", "ours", "grid")
    assert both.facts == {"python": "3.11; 3.12", "cpu": "two cores", "gpu": "none"}
    assert both.commands == ["evocomp compare --keep 4", "evocomp demo"]
    assert both.plots == {"loss": "a.png"}
    assert joined([ONE, ONE], "mine") == replace(ONE, title="mine")
