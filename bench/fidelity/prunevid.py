"""Comparison with Visual-AI/PruneVid, without noise in densities: merging, and dropping in the decoder."""

from __future__ import annotations

import torch
from torch import Tensor

from baselines.prunevid import PruneVid
from bench.fidelity.cases import Case


def check(case: Case) -> dict[str, Tensor]:
    method = PruneVid(
        scenes=case.value("temporal_segment_ratio"),
        similarity=case.value("tau"),
        clusters=case.value("cluster_ratio"),
        adaptive=True,
    )
    scenes = method.scenes_of(case["frames"], 0)
    counts = iter(method.official([size for scene in scenes for size in scene.sizes]))
    parts = [[next(counts) for _ in scene.sizes] for scene in scenes]
    _, tokens, _ = method.merged(case["frames"], scenes, [count for each in parts for count in each])
    return {
        "window_sizes": torch.tensor([scene.last - scene.first + 1 for scene in scenes]),
        "static_sizes": torch.tensor([each[0] for each in parts]),
        "dynamic_sizes": torch.tensor([sum(each[1:]) for each in parts]),
        "output_tokens": tokens,
    }


def inner(case: Case) -> dict[str, Tensor]:
    sizes = []
    for frames, static, dynamic in zip(
        *(case[name].tolist() for name in ("window_sizes", "static_sizes", "dynamic_sizes")), strict=True
    ):
        sizes += [static, *([dynamic // frames] * frames)]
    part = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    method = PruneVid(ratio=case.value("alpha"), adaptive=True)
    counts = [int(method.ratio * size) for size in sizes]
    return {"kept_indices": method.best(case["text_to_visual_attention"], part, counts)}
