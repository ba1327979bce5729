"""Comparison with Theia-4869/CDPruner."""

from __future__ import annotations

import torch
from torch import Tensor

from baselines.cdpruner import CDPruner
from bench.fidelity.cases import Case


def check(case: Case) -> dict[str, Tensor]:
    method, features = CDPruner(), case["image_features"]
    likeness = [method.likeness(patches, case["text_embeds"]) for patches in case["image_embeds"]]
    relevance = method.scaled(-torch.stack(likeness))  # the official code scales over all tiles of the batch
    order = torch.stack(
        [
            method.order(tile, weight, case.value("visual_token_num"))
            for tile, weight in zip(features, relevance, strict=True)
        ]
    )
    return {
        "relevance": relevance,
        "selection_order": order,
        "kept_indices": order.sort(1).values,
        "index_mask": torch.zeros(features.shape[:2], dtype=torch.bool).scatter(1, order, True),
    }
