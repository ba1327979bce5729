from __future__ import annotations

import pytest

from baselines.frames import Frames
from baselines.grid import Grid
from baselines.lattices import slices
from baselines.pool import Pool
from tests.baselines.clips import clip


def test_whole_frames_lie_evenly_in_time():
    assert Frames().select(clip(), 12).index.tolist() == list(range(24, 36))
    assert Frames().select(clip(), 24).index.tolist() == [*range(12, 24), *range(36, 48)]


def test_the_last_of_them_has_what_is_left_of_the_budget():
    assert Frames().select(clip(), 16).index.tolist() == [*range(12, 24), 37, 39, 45, 47]
    assert Frames().select(clip(), 4).index.tolist() == [25, 27, 33, 35]


@pytest.mark.parametrize(("frames", "places", "keep", "expected"), [
    (8, 64, 64, [16] * 4), (8, 64, 8, [4, 4]), (8, 64, 512, [64] * 8), (8, 64, 1, [1]), (4, 1, 3, [1, 1, 1]),
    (1, 12, 7, [7]), (16, 4, 32, [2, 2, 3, 2, 3, 2, 3, 2, 3, 2, 3, 2, 3]),
])  # fmt: skip
def test_time_is_cut_as_finely_as_the_sides_of_frames(
    frames: int, places: int, keep: int, expected: list[int]
):
    assert slices(frames, places, keep) == expected


def test_grid_keeps_the_same_lattice_of_evenly_spaced_frames():
    index = Grid().select(clip(newlines=1), 13).index.tolist()
    assert index == [12 * frame + place for frame in (0, 2, 3) for place in (1, 3, 9, 11)] + [48]


def test_pool_gives_means_over_boxes_of_space_and_time():
    view = clip(newlines=1)
    found = Pool().select(view, 9)
    assert found.index[-1] == 48 and {at // 12 for at in found.index[:8].tolist()} == {1, 3}
    assert found.tokens is not None and found.into is not None
    for number in range(9):
        members = view.hidden[found.into == number]
        assert found.tokens[number].tolist() == pytest.approx(members.mean(0).tolist(), abs=1e-6)
    assert sorted(found.into.bincount().tolist())[0] == 1  # the newline
