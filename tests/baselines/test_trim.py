from __future__ import annotations

import torch

from baselines.trim import TRIM
from compress.attach.session import attach
from compress.base import VISION
from compress.models.loading import MLLM


def test_the_patches_least_like_the_text_stay_and_the_rest_is_one_mean():
    patches = torch.tensor([[1.0, 0.0], [-2.0, 0.0], [3.0, 0.0], [-1.0, 0.0]])
    scores = TRIM.scores(patches, torch.tensor([[1.0, 0.0]]))
    assert scores.argsort(descending=True).tolist() == [1, 3, 0, 2]
    tokens = TRIM.summed(patches, torch.tensor([1, 3]))
    assert tokens.tolist() == [[-2.0, 0.0], [-1.0, 0.0], [2.0, 0.0]]
    assert TRIM.summed(patches, torch.arange(4)).tolist() == patches.tolist()


def test_the_fence_of_the_quartiles_says_how_many_stay(tiny: MLLM, pictures):
    with attach(tiny, TRIM(adaptive=True), 40) as trace, torch.no_grad():
        tiny.model(**tiny.prepare(pictures, ["how many ?"] * 4))
    counts = {len(record.kept[VISION]) for record in trace.samples}
    assert all(record.kept[VISION][-1] == -1 for record in trace.samples) and len(counts) > 1
