"""What a comparison will take, by what was measured."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from baselines.fastv import FastV
from baselines.grid import Grid
from baselines.random import Random
from bench.evaluation import cellwork
from bench.evaluation.cells import CellKey, stem_of
from bench.evaluation.compare import Entry, PreparedComparison, compare, prepare
from bench.evaluation.history import Times
from bench.evaluation.planned import PlannedCell, makespan, parts_left, planned
from bench.tasks import TASKS
from compress.models.loading import MLLM


def prepared(mllm: MLLM, folder: Path | None, n: int = 7, **options: int) -> PreparedComparison:
    entries = [Entry("grid", Grid()), Entry("random", Random(draws=3)), Entry("fastv", FastV(layer=6))]
    data = {task: task.micro(n) for task in (TASKS[name]() for name in ("gqa", "pope"))}
    return prepare(mllm, entries, (30, 40, 2), data, folder=folder, **{"batch": 2, **options})


def test_cells_have_the_measured_times_of_their_method_or_else_of_their_task(
    tiny: MLLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cellwork, "PART", 4)
    task = TASKS["gqa"]()
    compare(tiny, [Entry("grid", Grid())], (30,), {task: task.micro(7)}, batch=2, folder=tmp_path)
    times = {CellKey("none", 144, "gqa"): 14.0, CellKey("grid", 30, "gqa"): 7.0}
    replace(Times(), seconds={stem_of(key): told for key, told in times.items()}).save(tmp_path)
    before = sorted(path.name for path in tmp_path.iterdir())
    cells = {one.key: one for one in planned(prepared(tiny, tmp_path))}
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    assert len(cells) == 2 + 3 * 3 * 2
    done, same, other, unknown = (
        cells[CellKey(*key)]
        for key in [("grid", 30, "gqa"), ("grid", 40, "gqa"), ("random", 40, "gqa"), ("grid", 30, "pope")]
    )
    assert done.finished and (done.left, done.seconds) == (0, 0.0)
    assert (same.answers, same.seconds) == (7, 7.0)  # a second an answer, as at another budget
    assert (other.answers, other.parts, other.seconds) == (21, (4, 3) * 3, 21 * 1.5)  # mean of all methods
    assert (unknown.left, unknown.seconds) == (7, None)
    assert cells[CellKey("fastv", 2, "gqa")].impossible.startswith("keep=2 is out of reach")
    # Other questions are another comparison, but not slower ones.
    assert {one.rate for one in planned(prepared(tiny, None, n=5), tmp_path)} >= {1.0, 1.5, 2.0, None}
    with pytest.raises(ValueError, match=r"has no times of model .*batch 3: run a few questions into it"):
        planned(prepared(tiny, None, batch=3), tmp_path)


def test_free_workers_take_the_next_part() -> None:
    def cell(parts: tuple[int, ...], rate: float | None) -> PlannedCell:
        return PlannedCell(CellKey("grid", 9, "gqa"), sum(parts), parts, rate=rate)

    cells = [cell((4, 4, 4), 1.0), cell((2,), 2.5), cell((9,), None)]
    assert list(parts_left(cells)) == [4, 4, 4, 5]
    assert [makespan(parts_left(cells), workers) for workers in (1, 2, 8)] == [17, 9, 5]
