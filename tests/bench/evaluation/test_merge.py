"""Folders in one table: only what was made under one protocol, unless the table says otherwise."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from bench.evaluation.cells import CellKey, Cells
from bench.evaluation.evaluate import Outcome
from bench.evaluation.merge import merge
from compress.samples import Sample

RIGHT, WRONG = [1.0] * 12, [1.0] * 6 + [0.0] * 6
RUN: dict[str, Any] = {"model": "abc", "visual tokens": 16, "match": "tokens", "batch": 4}
Runs = Mapping[tuple[str, int], Mapping[str, Sequence[float] | str]]
Fill = Callable[..., Path]


@pytest.fixture
def fill(make_outcome: Callable[..., Outcome], tmp_path: Path) -> Fill:
    """A comparison's folder with vanilla, all right, and the given cells."""

    def made(name: str, runs: Runs, **protocol: Any) -> Path:
        tasks = list(dict.fromkeys(task for told in runs.values() for task in told))
        facts = RUN | {f"{task}: version": 1 for task in tasks} | protocol
        described = {method: {"class": method, "seed": 0} for method, _ in runs} | {
            "none": {"class": "KeepAll"}
        }
        described |= protocol.pop("methods", {})
        facts.pop("methods", None)
        cells = Cells(tmp_path / name, facts, described)
        for (method, keep), told in {("none", 16): {task: RIGHT for task in tasks}, **runs}.items():
            for task, correct in told.items():
                if isinstance(correct, str):
                    cells.add(CellKey(method, keep, task), (), None, correct)
                    continue
                samples = [Sample(f"{task}-{i}", None, "?", ("right",)) for i in range(12)]  # type: ignore[arg-type]
                cells.add(CellKey(method, keep, task), samples, make_outcome(task, correct))
        return tmp_path / name

    return made


def test_equal_protocols_make_one_table(fill: Fill) -> None:
    one = fill("one", {("a", 4): {"gqa": WRONG}, ("a", 2): {"gqa": WRONG}})
    two = fill("two", {("b", 4): {"gqa": RIGHT}})
    found = merge([one, two], reference="a")
    assert [(row.method, row.keep) for row in found.rows] == [("none", 16), ("b", 4), ("a", 4), ("a", 2)]
    assert found.rows[1].reference and found.rows[1].reference.rival == "a"
    assert (found.mixed, found.match) == ((), "tokens")


def test_a_row_without_all_tasks_has_no_average(fill: Fill) -> None:
    one = fill("one", {("a", 4): {"gqa": WRONG, "vqav2": RIGHT}})
    two = fill("two", {("b", 4): {"gqa": RIGHT}})
    rows = merge([one, two]).rows
    assert [row.average is None for row in rows] == [False, False, True]
    assert merge([one, two]).impossible == {("b", 4, "vqav2"): "not run"}


@pytest.mark.parametrize(
    ("setting", "other", "said"),
    [
        ("model", "def", "model is 'abc' in .*one and 'def' in .*two"),
        ("batch", 8, "batch is 4 in .*one and 8 in .*two"),
        ("match", "flops", "match is 'tokens' in .*one and 'flops' in .*two"),
        ("methods", {"a": {"class": "a", "seed": 1}}, "a: seed is 0 in .*one and 1 in .*two"),
        ("methods", {"a": {"class": "a", "positions": "compact", "seed": 0}}, ""),
    ],
)
def test_different_protocols_are_refused_and_every_difference_named(
    fill: Fill, setting: str, other: Any, said: str
) -> None:
    one, two = (
        fill("one", {("a", 4): {"gqa": WRONG}}),
        fill("two", {("a", 2): {"gqa": WRONG}}, **{setting: other}),
    )
    if not said:  # a fact that only one of them knows forbids nothing
        assert len(merge([one, two]).rows) == 3
        return
    with pytest.raises(ValueError, match=f"not comparable: {said}. Use --mixed"):
        merge([one, two])


def test_task_settings_matter_only_where_both_ran_the_task(fill: Fill) -> None:
    one = fill("one", {("a", 4): {"gqa": WRONG}}, **{"gqa: n": 12})
    two = fill("two", {("a", 4): {"vqav2": WRONG}}, **{"vqav2: n": 24})
    three = fill("three", {("b", 4): {"gqa": WRONG}}, **{"gqa: n": 13})
    assert len(merge([one, two]).tasks) == 2
    with pytest.raises(ValueError, match="gqa: n is 12 in .* and 13 in"):
        merge([one, two, three])


def test_other_answers_under_the_same_settings_are_a_difference(fill: Fill) -> None:
    one, two = fill("one", {("a", 4): {"gqa": WRONG}}), fill("two", {("a", 4): {"gqa": RIGHT}})
    with pytest.raises(ValueError, match="a at 4 answers gqa differently in .*one and in .*two"):
        merge([one, two])


def test_mixed_rows_are_numbered_and_measured_by_their_own_vanilla(fill: Fill) -> None:
    one, two = fill("one", {("a", 4): {"gqa": WRONG}}), fill("two", {("a", 4): {"gqa": RIGHT}}, batch=8)
    three = fill("three", {("b", 4): {"gqa": WRONG}}, batch=8)
    found = merge([one, two, three], mixed=True)
    assert [row.method for row in found.rows] == ["none", "none [2]", "a [2]", "a", "b [2]"]
    assert found.rows[2].vanilla and found.rows[2].vanilla.rival == "none [2]"
    (said,) = found.mixed
    assert said.startswith("[2] batch is 4 in") and said.endswith("two")


def test_mixed_is_not_marked_when_nothing_differs(fill: Fill) -> None:
    assert merge([fill("one", {("a", 4): {"gqa": WRONG}})], mixed=True).mixed == ()


def test_scores_of_an_older_benchmark_are_refused(fill: Fill) -> None:
    old = fill("old", {("a", 4): {"gqa": WRONG}}, **{"gqa: version": 0})
    with pytest.raises(ValueError, match="gqa: version is 0 in .*old and 1 in this package"):
        merge([old])
    assert "version" in merge([old], mixed=True).mixed[0]


def test_impossible_cells_stay_impossible_until_another_folder_has_them(fill: Fill) -> None:
    one = fill("one", {("a", 4): {"gqa": "out of memory"}, ("b", 4): {"gqa": RIGHT}})
    two = fill("two", {("a", 4): {"gqa": WRONG}})
    assert merge([one]).impossible == {("a", 4, "gqa"): "out of memory"}
    assert merge([one, two]).impossible == merge([two, one]).impossible == {}


def test_folders_without_results_and_unknown_methods_are_refused(fill: Fill, tmp_path: Path) -> None:
    one = fill("one", {("grid", 4): {"gqa": WRONG}})
    with pytest.raises(ValueError, match="nowhere: no results here; give folders that evocomp compare --out"):
        merge([one, tmp_path / "nowhere"])
    with pytest.raises(
        ValueError, match="--reference: unknown method of these results 'gird'; did you mean 'grid'"
    ):
        merge([one], reference="gird")


def test_a_folder_that_contradicts_itself_is_refused(fill: Fill) -> None:
    one = fill("one", {("a", 4): {"gqa": WRONG}})
    two = fill("two", {("b", 4): {"gqa": WRONG}}, batch=8)
    for cell in (two / "cells").iterdir():
        if "-b-" in cell.name:
            cell.rename(one / "cells" / cell.name)
    with pytest.raises(ValueError, match="one contradicts itself: batch is"):
        merge([one])


def test_difficulty_comes_from_the_first_protocol(fill: Fill) -> None:
    one = fill("one", {("a", 4): {"gqa": WRONG}, ("b", 4): {"gqa": RIGHT}})
    (found,) = merge([one], difficulty="a").difficulty
    assert (found.easy, found.hard, found.scores["b"]) == (6, 6, 100)


def test_cells_of_an_earlier_version_say_what_to_do(fill: Fill) -> None:
    """A method that was left out when its folder was compared again by a newer version."""
    one = fill("one", {("a", 4): {"gqa": WRONG}}, code="old")
    (new,) = (fill("two", {("b", 4): {"gqa": WRONG}}, code="new") / "cells").glob("*-b-*")
    new.rename(one / "cells" / new.name)
    with pytest.raises(ValueError, match="code is 'old' .*run evocomp compare --out .*one again with all"):
        merge([one])
