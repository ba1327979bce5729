from __future__ import annotations

from math import exp

import pytest
import torch

from baselines.vidcom2 import VidCom2
from tests.baselines.clips import clip


def official(frames: torch.Tensor, ratio: float) -> list[int]:
    """The rule token by token, with the code's own rounding."""
    count, places, width = frames.shape
    flat = frames.reshape(-1, width)
    spread = sorted(range(width), key=lambda channel: float(flat[:, channel].var(unbiased=False)))
    unit = [token[spread[: width // 2]] for token in flat]
    unit = [token / token.norm() for token in unit]
    whole = sum(unit) / len(unit)

    def like(token: torch.Tensor, mean: torch.Tensor) -> float:
        apart = float(((token - mean) ** 2).sum())
        return sum(exp(-apart / (2 * width)) for width in (1 / 8, 1 / 4, 1 / 2, 1, 2))

    to_video = [like(token, whole) for token in unit]
    likeness = [sum(to_video[frame * places : (frame + 1) * places]) / places for frame in range(count)]
    weights = [exp((max(-each for each in likeness) + each) / -0.01) for each in likeness]
    kept = []
    for frame in range(count):
        own = range(frame * places, (frame + 1) * places)
        mean = sum(unit[token] for token in own) / places
        scale = min(1, ratio * (1 + weights[frame] / sum(weights) - 1 / count))
        best = sorted(own, key=lambda token: to_video[token] + like(unit[token], mean))
        kept += sorted(best[: max(1, round(scale * places))])
    return kept


@pytest.mark.parametrize("ratio", [0.15, 0.25, 0.5])
@pytest.mark.parametrize("seed", range(4))
def test_it_keeps_what_the_rule_says_where_the_code_meets_a_budget(ratio: float, seed: int):
    generator = torch.Generator().manual_seed(seed)
    frames = torch.randn(5, 20, 12, generator=generator) + 2 * torch.randn(5, 1, 12, generator=generator)
    expected = official(frames, ratio)
    view = clip(frames, grid=(4, 5))
    found = VidCom2().select(view, len(expected)).index.tolist()
    if len(expected) == round(ratio * 100):
        assert found == expected
    counts = [[at // 20 for at in each].count(frame) for each in (found, expected) for frame in range(5)]
    assert all(abs(ours - theirs) <= 1 for ours, theirs in zip(counts[:5], counts[5:], strict=True))


def test_an_unusual_frame_gets_more():
    generator = torch.Generator().manual_seed(0)
    frames = torch.ones(4, 12, 16) + 0.1 * torch.randn(4, 12, 16, generator=generator)
    frames[2] *= torch.tensor([1.0, -1.0]).repeat(8)
    counts = (VidCom2(channels=1).select(clip(frames), 16).index // 12).bincount(minlength=4).tolist()
    assert counts[2] == max(counts) > 16 // 4 and sum(counts) == 16


def test_the_least_like_the_others_stay():
    frames = torch.ones(4, 12, 4)
    frames[:, 5] = torch.tensor([1.0, -1.0, 1.0, -1.0])
    assert VidCom2(channels=1).select(clip(frames), 4).index.tolist() == [5, 17, 29, 41]
