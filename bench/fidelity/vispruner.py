"""Comparison with Theia-4869/VisPruner and with Theia-4869/FasterVLM, the first version of the same paper."""

from __future__ import annotations

import torch
from torch import Tensor

from baselines.crops import best_of_each
from baselines.vispruner import VisPruner
from bench.fidelity.cases import Case


def check(case: Case) -> dict[str, Tensor]:
    method = VisPruner(case.value("important_ratio"))
    parts = [
        method.split(attention.mean(0), features, case.value("visual_token_num"))
        for attention, features in zip(case["cls_attention"], case["features"], strict=True)
    ]
    important, diverse = (torch.stack(part) for part in zip(*parts, strict=True))
    return {
        "important_indices": important,
        "diverse_indices_output_order": diverse,
        **kept(torch.cat([important, diverse], 1), case["features"].shape[1]),
    }


def fastervlm(case: Case) -> dict[str, Tensor]:
    scores = case["cls_attention"].mean(1)  # [B, N]
    tiles, patches = scores.shape
    tile = torch.arange(tiles).repeat_interleave(patches)
    budgets = torch.full((tiles,), case.value("visual_token_num"))
    best = best_of_each(scores.flatten(), tile, budgets).view(tiles, -1)
    return {"attention_scores": scores, **kept(best % patches, patches)}


def kept(chosen: Tensor, patches: int) -> dict[str, Tensor]:
    """Selected patches [B, K] of each tile, in ascending order, and as a mask."""
    mask = torch.zeros(len(chosen), patches, dtype=torch.bool).scatter(1, chosen, True)
    return {"kept_indices": chosen.sort(1).values, "index_mask": mask}
