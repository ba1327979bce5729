from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bench.origin import FILE, Origin, joined

ONE = Origin("one", {"python": "3.11", "cpu": "two cores"}, ["evocomp compare --keep 4"], {}, "ours", "grid")


def test_it_comes_back_with_the_commands_before_it(tmp_path: Path) -> None:
    ONE.save(tmp_path)
    later = replace(ONE, commands=["evocomp compare --keep 4,2"]).save(tmp_path)
    assert later.commands == ["evocomp compare --keep 4", "evocomp compare --keep 4,2"]
    assert Origin.read(tmp_path) == later
    assert ONE.save(tmp_path).commands == later.commands, "no command twice"


def test_a_folder_can_be_moved_with_its_plots(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    outside = str(tmp_path / "outside.png")
    replace(ONE, plots={"loss": str(here / "curves.png"), "far": outside}).save(here)
    here.rename(there)
    assert Origin.read(there).plots == {"loss": str(there / "curves.png"), "far": outside}


def test_an_unfinished_comparison_has_little_to_say(tmp_path: Path) -> None:
    assert Origin.read(tmp_path / "run") == Origin("run", {})


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"plots": {}, "colour": 1}', '{"plots": []}'])
def test_other_files_are_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / FILE).write_text(content)
    with pytest.raises(ValueError, match=r"run.json: not what evocomp compare --out writes"):
        Origin.read(tmp_path)


def test_facts_that_differ_are_listed_and_the_first_has_the_say() -> None:
    other = Origin("two", {"python": "3.12", "gpu": "none"}, ["evocomp demo"], {"loss": "a.png"}, "theirs")
    both = joined([ONE, other])
    assert (both.title, both.reference, both.difficulty) == ("one; two", "ours", "grid")
    assert both.facts == {"python": "3.11; 3.12", "cpu": "two cores", "gpu": "none"}
    assert both.commands == ["evocomp compare --keep 4", "evocomp demo"]
    assert both.plots == {"loss": "a.png"}
    assert joined([ONE, ONE], "mine") == replace(ONE, title="mine")
