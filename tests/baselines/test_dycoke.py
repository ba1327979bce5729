from __future__ import annotations

import pytest
import torch

from baselines.dycoke import DyCoke
from tests.baselines.clips import clip


def frames(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, 12, 8, generator=torch.Generator().manual_seed(seed))


def counts(count: int, keep: int, **options: str) -> list[int]:
    index = DyCoke(**options).select(clip(frames(count)), keep).index  # type: ignore[arg-type]
    return (index // 12).bincount(minlength=count).tolist()


def test_the_last_four_frames_have_two_whole_ones():
    assert counts(8, 3 * 12 + 5 * 4) == [12, 4, 4, 4, 12, 4, 12, 4]
    assert counts(4, 2 * 12 + 2 * 3) == [12, 3, 12, 3]


def test_the_last_of_an_odd_number_of_frames_stays_whole_or_is_lost():
    assert counts(5, 2 * 12 + 3 * 5) == [12, 5, 5, 5, 12]
    assert counts(5, 12 + 3 * 5, last="lost") == [12, 5, 5, 5, 0]


def test_where_whole_frames_do_not_fit_fewer_stay_whole():
    found = counts(16, 47)
    assert found[0] == found[8] == 12 and {*found} == {1, 2, 12} and sum(found) == 47
    assert counts(16, 20)[0] == 12 and {*counts(16, 20)[1:]} == {0, 1}
    assert counts(16, 4) == [4] + [0] * 15


def test_what_is_least_like_the_frame_before_goes_on_first():
    still = torch.ones(4, 12, 2)
    still[1:, 3], still[1:, 8], still[1:, 5] = (
        torch.tensor([-1.0, 1.0]), torch.tensor([-1.0, -1.0]), torch.tensor([1.0, 0.5])
    )  # fmt: skip
    index = DyCoke().select(clip(still), 24 + 6).index.tolist()
    assert index[12:15] == [12 + 8, 12 + 3, 12 + 5] and index[15:27] == list(range(24, 36))
    raster = DyCoke(order="raster").select(clip(still), 24 + 6).index.tolist()
    assert raster == sorted(index)


@pytest.mark.parametrize(("group", "expected"), [
    (4, [None, 0, 0, 2, None, 4, 4, 6, None, 8, 8, 10, None, 12, None, 14]),
    (8, [None, 0, 0, 2, 0, 4, 4, 6, None, 8, 8, 10, 8, 12, 12, 14]),
    (16, [None, 0, 0, 2, 0, 4, 4, 6, 0, 8, 8, 10, 8, 12, 12, 14]),
])  # fmt: skip
def test_a_frame_is_compared_with_the_one_ahead_of_it_in_a_finer_pattern(
    group: int, expected: list[int | None]
):
    assert DyCoke().references(16, group) == expected
