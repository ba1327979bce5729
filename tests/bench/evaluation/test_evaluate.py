from __future__ import annotations

from bench.evaluation.evaluate import Stage, path
from compress.attach.prefill import Record


def record(kept: dict[int, list[int]], merged: dict[int, list[bool]]) -> Record:
    return Record(9, 3, [9, 3], [9, 3], kept, merged, None)


def test_a_path_goes_by_depth_and_what_merged_once_stays_merged() -> None:
    found = path(
        record(
            {4: [2, 7], -1: [0, 2, 7, -1], 2: [0, 2, 7]},
            {4: [False, False], -1: [False, True, False, True], 2: [False, False, True]},
        )
    )
    assert found == (Stage(-1, (0, 2, 7, -1), (2,)), Stage(2, (0, 2, 7), (2, 7)), Stage(4, (2, 7), (2, 7)))


def test_keeping_everything_has_no_path() -> None:
    assert path(record({}, {})) == ()
