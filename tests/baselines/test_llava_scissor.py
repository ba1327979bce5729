from __future__ import annotations

import pytest
import torch

from baselines.llava_scissor import LLaVAScissor, cosines, grouped, spatial, tree
from tests.baselines.clips import clip


def ray(*degrees: float) -> torch.Tensor:
    angle = torch.tensor(degrees).deg2rad()
    return torch.stack([angle.cos(), angle.sin()], -1)


def found(points: torch.Tensor, threshold: float, count: int | None = None) -> list[int]:
    graph = cosines(points)
    return grouped(points, graph, tree(graph), threshold, count)[0].tolist()


def test_a_chain_of_like_tokens_is_one_group_led_by_its_best_linked():
    points = ray(0, 40, 80, 200, 240)  # links from 45 degrees on
    graph = cosines(points)
    first, tokens = grouped(points, graph, tree(graph), 0.7)
    assert first.tolist() == [1, 3]  # 1 is linked to both, 3 is the first of two equals
    torch.testing.assert_close(tokens, torch.stack([points[:3].mean(0), points[3:].mean(0)]))


def test_groups_stand_in_the_order_of_their_leaders():
    assert found(ray(200, 0, 40, 80, 240), 0.7) == [0, 2]
    assert found(ray(0, 200, 201, 40, 80), 0.7) == [1, 3]


@pytest.mark.parametrize("seed", range(4))
def test_groups_are_the_connected_ones(seed: int):
    points = torch.randn(30, 3, generator=torch.Generator().manual_seed(seed))
    graph = cosines(points)
    for threshold in (0.5, 0.8, 0.95):
        reach = (graph > threshold) | torch.eye(30, dtype=torch.bool)
        for _ in range(5):
            reach = (reach.float() @ reach.float()) > 0
        assert len(found(points, threshold)) == len(set(map(tuple, reach.tolist())))


def test_the_weakest_links_are_cut_until_the_count_is_exact():
    points = ray(0, 5, 30, 35, 80)
    assert [len(found(points, 0.0, count)) for count in range(1, 6)] == [1, 2, 3, 4, 5]
    assert found(points, 0.9, 2) == [1, 4]
    assert len(found(torch.ones(4, 2), 0.0, 3)) == 3


def test_frames_are_grouped_before_the_video():
    frames = torch.stack([ray(0, 10, 90), ray(5, 95, 180)])
    assert spatial(frames, 0.95)[0].tolist() == [0, 2, 3, 4, 5]
    leaders, tokens = LLaVAScissor.merged(frames, 0.95)
    assert leaders.tolist() == [0, 2, 5]
    torch.testing.assert_close(tokens[0], (ray(0, 10).mean(0) + ray(5)[0]) / 2)


def test_every_token_joins_the_group_most_like_it():
    points, tokens = ray(0, 10, 170), ray(5, 180)
    joined, nearest = LLaVAScissor.joined(points, tokens)
    assert nearest.tolist() == [0, 0, 1]
    torch.testing.assert_close(joined[0], (tokens[0] + points[0] + points[1]) / 3)


def test_the_threshold_alone_decides_if_it_is_adaptive():
    frames = torch.randn(1, 12, 16, generator=torch.Generator().manual_seed(0)).repeat(4, 1, 1)
    view = clip(frames, newlines=1)
    found = LLaVAScissor(adaptive=True).select(view, 0)
    assert len(found.index) == 13 and found.index[-1] == 48
    torch.testing.assert_close(found.tokens[:12], frames[0])


@pytest.mark.parametrize("seed", range(3))
def test_a_budget_has_a_threshold_that_leaves_enough_next_to_one_that_does_not(seed: int):
    frames = torch.randn(4, 12, 6, generator=torch.Generator().manual_seed(seed))
    left = [0, *(len(LLaVAScissor.merged(frames, step / 128)[0]) for step in range(129)), 48]
    for keep in (1, 17, 46):
        leaders, _ = LLaVAScissor().budgeted(frames, keep)
        allowed = [step for step in range(130) if left[step] < keep <= left[step + 1]]
        possible = [LLaVAScissor.merged(frames, step / 128, keep=keep)[0].tolist() for step in allowed]
        assert leaders.tolist() in possible and len(leaders) == keep
