from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from baselines.prunevid import PruneVid, Segment, runs, smooth
from tests.baselines.clips import clip, left


@pytest.mark.parametrize(("labels", "expected"), [
    ([0, 0, 1, 0, 0, 0], [0, 0, 0, 0, 0, 0]),  # the longer neighbour's; then both runs are one
    ([0, 0, 1, 1, 0, 0], [0, 0, 1, 1, 0, 0]),  # two runs of the greatest length
    ([2, 0, 0, 1, 1], [0, 0, 0, 1, 1]),
    ([0, 0, 2, 1, 1], [0, 0, 0, 1, 1]),  # equal neighbours: the left one
    ([0, 0, 2, 1, 1, 1], [0, 0, 1, 1, 1, 1]),
    ([0, 1, 2, 3], [0, 0, 0, 0]),  # no run of two frames
    ([1, 1, 2, 3, 0, 0, 0, 2], [1, 1, 0, 0, 0, 0, 0, 0]),
    ([0, 0, 1, 1, 1, 0, 2, 2, 2], [0, 0, 1, 1, 1, 1, 2, 2, 2]),
])  # fmt: skip
def test_frames_of_short_runs_join_a_neighbour(labels: list[int], expected: list[int]):
    assert smooth(labels) == expected


def test_runs_are_of_equal_labels():
    assert runs([1, 1, None, None, 2]) == [(0, 2, 1), (2, 4, None), (4, 5, 2)]


def test_a_place_is_as_like_as_its_frames_are_on_average():
    degrees = torch.tensor([0.0, 60.0, 90.0])
    frames = torch.stack([degrees.deg2rad().cos(), degrees.deg2rad().sin()], -1)[:, None]
    expected = sum(torch.tensor(angle).deg2rad().cos() for angle in (60.0, 30.0, 90.0)) / 3
    assert PruneVid.alike(frames).item() == pytest.approx(expected.item(), abs=1e-6)
    assert PruneVid.alike(frames[:1]).item() == -torch.inf  # of one frame nothing is static


def test_windows_follow_the_scenes():
    scenes = torch.tensor([[0.0, 0], [9, 0], [0, 9]]).repeat_interleave(4, 0)
    noise = 0.1 * torch.randn(12, 2, generator=torch.Generator().manual_seed(0))
    assert PruneVid().windows(scenes + noise) == [(0, 3), (4, 7), (8, 11)]
    assert PruneVid().windows(scenes[:3]) == [(0, 2)]  # one at least


def test_parts_are_merged_into_their_clusters_and_small_ones_stay():
    frames = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0))
    static = torch.tensor([True, True, False, False, False])
    index, tokens, into = PruneVid.merged(frames, [Segment(0, 1, static)], [2, 3, 1])
    assert index[:5].tolist() == [0, 1, 2, 3, 4] and index[5] in (7, 8, 9)
    assert into.tolist() == [0, 1, 2, 3, 4, 0, 1, 5, 5, 5]
    torch.testing.assert_close(tokens[:2], frames[:, :2].mean(0))
    torch.testing.assert_close(tokens[2:5], frames[0, 2:])
    torch.testing.assert_close(tokens[5], frames[1, 2:].mean(0))


def test_official_counts_halve_what_is_more_than_a_few():
    assert PruneVid().official([14, 15, 40, 0]) == [14, 7, 20, 0]


def test_the_second_stage_takes_the_same_share_of_every_part():
    view = clip()
    method = PruneVid()
    first = method.select(view, 20)
    later = left(view, first.index, 11, first.tokens)
    kept = method.select(later, 8).index
    segments = method.scenes_of(view.hidden.view(4, 12, 16), 20)
    part = method.part_of(segments, first.index, 12)
    sizes, counts = part.bincount().tolist(), part[kept].bincount(minlength=int(part.max()) + 1).tolist()
    assert all(abs(count - 0.4 * size) < 1 for size, count in zip(sizes, counts, strict=True))
    scores = later.attention(10, range(3)).amax((0, 1))
    for number, count in enumerate(counts):
        own = (part == number).nonzero()[:, 0]
        best = own[scores[own].topk(count).indices]
        assert set(best.tolist()) == set(kept[part[kept] == number].tolist())


def test_thresholds_alone_decide_if_it_is_adaptive():
    view = clip(torch.randn(1, 12, 16).repeat(4, 1, 1))  # all is static
    method = PruneVid(adaptive=True)
    first = method.select(view, 0)
    assert len(first.index) == 12 and set(method.schedule(48, 0, 32)) == {0, 11}
    assert len(method.select(left(view, first.index, 11, first.tokens), 0).index) == int(0.4 * 12)
    empty = replace(left(view, first.index[:1], 11, view.hidden[:1]))
    assert len(method.select(empty, 0).index) == 1


def test_caches_are_cut_from_the_first_layer_on():
    assert PruneVid().cut_caches_from(32) == 0
