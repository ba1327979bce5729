from __future__ import annotations

import torch

from baselines.evs import EVS
from tests.baselines.clips import clip


def still(changes: dict[tuple[int, int], float]) -> torch.Tensor:
    """Four equal frames of twelve tokens, of which some are turned by some degrees, for good."""
    angle = torch.zeros(4, 12)
    for (frame, place), degrees in changes.items():
        angle[frame:, place] += degrees
    return torch.stack([angle.deg2rad().cos(), angle.deg2rad().sin()], -1)


def kept(frames: torch.Tensor, keep: int) -> list[int]:
    return EVS().select(clip(frames), keep).index.tolist()


def test_the_first_frame_stays_whole_and_then_what_changed_most():
    frames = still({(1, 5): 90, (3, 2): 45, (2, 7): 10})
    assert kept(frames, 12) == list(range(12))
    assert kept(frames, 13) == [*range(12), 12 + 5]
    assert kept(frames, 14) == [*range(12), 12 + 5, 36 + 2]
    assert kept(frames, 15) == [*range(12), 12 + 5, 24 + 7, 36 + 2]


def test_a_token_is_compared_with_the_frame_before_and_not_with_what_was_kept():
    slow = still({(frame, 0): 30.0 for frame in (1, 2, 3)} | {(2, 4): 31.0})
    assert kept(slow, 13) == [*range(12), 24 + 4]  # 90 degrees in all, 30 at a time


def test_among_equals_the_earlier_token_stays():
    assert kept(still({(1, 3): 90, (1, 9): 90, (2, 0): 90}), 14) == [*range(12), 15, 21]


def test_less_than_a_frame_is_spread_over_the_first():
    assert kept(still({}), 4) == [1, 3, 9, 11]
