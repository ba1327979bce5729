"""Comparison with FreedomIntelligence/TRIM, whose code uses one ratio for all images of a batch."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from baselines.prumerge import PruMerge
from baselines.trim import TRIM
from bench.fidelity.cases import Case
from compress.base import top_k


def check(case: Case) -> dict[str, Tensor | float | int]:
    features, weight = case["features"], case["layernorm_weight"]
    normed = F.layer_norm(features, weight.shape, weight, case["layernorm_bias"], 1e-5)
    embeds = normed @ case["projection"].T
    scores = torch.stack([TRIM.scores(patches, case["text_features"]) for patches in embeds])
    asked = case.value("ratio")
    ratio = PruMerge.ratio(scores) if asked == -1 else asked
    keep = int(features.shape[1] * ratio)
    kept = torch.stack([top_k(each, keep) for each in scores])
    return {
        "scores": scores,
        "used_ratio": ratio,
        "num_keep": keep,
        "kept_indices": kept,
        "output_tokens": torch.stack([TRIM.summed(*pair) for pair in zip(features, kept, strict=True)]),
    }
