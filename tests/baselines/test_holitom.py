from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from baselines.holitom import HoliTom, redundant
from tests.baselines.clips import clip


def brute(same: torch.Tensor) -> int:
    """The most tokens that any partition of frames into windows makes redundant."""
    frames = len(same) + 1
    best = 0
    for cuts in range(2 ** (frames - 1)):
        ends = [0, *(at + 1 for at in range(frames - 1) if cuts >> at & 1), frames]
        best = max(
            best, sum(int(same[a : b - 1].all(0).sum()) * (b - a - 1) for a, b in pairwise(ends) if b - a > 1)
        )
    return best


@pytest.mark.parametrize("seed", range(5))
def test_windows_make_as_many_tokens_redundant_as_any_partition(seed: int):
    same = torch.rand(6, 9, generator=torch.Generator().manual_seed(seed)) > 0.35
    windows, static = HoliTom().windows(same)
    assert redundant(windows, static) == brute(same)
    assert [frame for start, end in windows for frame in range(start, end + 1)] == list(range(7))


def test_windows_are_no_longer_than_asked():
    windows, _ = HoliTom(window=3).windows(torch.ones(6, 4, dtype=torch.bool))
    assert max(end - start + 1 for start, end in windows) == 3


def test_windows_of_equal_worth_stay_apart():
    windows, _ = HoliTom().windows(torch.zeros(3, 4, dtype=torch.bool))
    assert windows == [(0, 0), (1, 1), (2, 2), (3, 3)]


def test_static_places_are_means_and_of_the_others_the_most_attended_stay():
    frames = torch.randn(4, 12, 16, generator=torch.Generator().manual_seed(0))
    frames[:, :6] = frames[0, :6] * torch.linspace(1, 2, 4)[:, None, None]  # all alike
    view = clip(frames)
    found = HoliTom(ratio=1.0).select(view, 6 + 4 * 6 - 4)
    assert found.tokens is not None and found.into is not None
    static = found.into.view(4, 12)[:, :6]
    assert (static == static[0]).all()  # they come first
    other = found.index[int(static.max()) + 1 :]
    assert 0 < len(other) < len(found.index)
    attention = view.received(-1).mean(0)
    for frame in range(4):
        own = other[other // 12 == frame]
        best = attention[12 * frame + 6 : 12 * frame + 12].topk(len(own)).indices + 12 * frame + 6
        assert own.tolist() == sorted(best.tolist())


def test_a_still_video_keeps_more_than_its_means_if_the_budget_asks():
    view = clip(torch.randn(1, 12, 16).repeat(4, 1, 1))
    for keep in (6, 12, 13, 30, 47):
        assert len(HoliTom(ratio=1.0).select(view, keep).index) == keep


def test_centres_weigh_more_than_their_cluster():
    points = torch.tensor([[0.0, 0], [1, 0], [0, 1], [5, 5], [5, 6]])
    values, centres, joined = HoliTom(neighbours=2).clustered(points, 2)
    assert centres.tolist() == sorted(centres.tolist()) and joined[centres].tolist() == [0, 1]
    near = int(centres[0])
    others = [at for at in (0, 1, 2) if at != near]
    assert values[0].tolist() == pytest.approx((0.6 * points[near] + 0.4 * points[others].mean(0)).tolist())
    assert values[1].tolist() == pytest.approx([5, 5.4] if centres[1] == 3 else [5, 5.6])


def test_dropped_tokens_are_folded_in_one_after_the_other():
    hidden = torch.tensor([[1.0, 0], [8, 0], [0, 1], [16, 0], [0, 4]])
    attention = torch.tensor([0.5, 0.1, 0.4, 0.2, 0.3])
    kept, tokens, into = HoliTom.folded(attention, hidden, 2)
    assert kept.tolist() == [0, 2] and into.tolist() == [0, 0, 1, 0, 1]
    assert tokens.tolist() == [[((1 + 8) / 2 + 16) / 2, 0], [0, (1 + 4) / 2]]


def test_the_decoder_stage_is_behind_eighteen_of_28_layers():
    assert HoliTom().schedule(1000, 100, 28) == {0: 200, 18: 100}
    assert HoliTom().schedule(1000, 100, 12) == {0: 200, 8: 100}
    assert HoliTom().schedule(100, 80, 28) == {0: 100, 18: 80}


def test_a_later_stage_reads_the_last_prompt_token():
    view = clip()
    later = replace(view, depth=18)
    expected = view.attention(17, [-1])[:, 0].mean(0).topk(10).indices.sort().values
    assert HoliTom().select(later, 10).index.tolist() == expected.tolist()
