"""Comparison with hasanar1f/HiRED, the LLaVA-NeXT version; one partition is LLaVA-1.5."""

from __future__ import annotations

import torch
from torch import Tensor

from baselines.crops import best_of_each
from baselines.hired import HiRED
from bench.fidelity.cases import Case


def check(case: Case) -> dict[str, Tensor | int]:
    early, late = (case[f"cls_attention_layer{layer}"].sum(1) for layer in (0, 22))  # [P, N]
    tiles, patches = late.shape
    total = int(tiles * patches * case.value("token_budget_rate"))
    region = HiRED.flat_chunks(patches, tiles - 1)
    sizes = torch.full((tiles,), patches)
    budgets = HiRED(case.value("alpha")).budgets(early[0], region, sizes, total, exact=False)
    tile = torch.arange(tiles).repeat_interleave(patches)
    kept = best_of_each(late.flatten(), tile, budgets)
    return {
        "token_budget_total": total,
        "partition_budgets": budgets,
        "kept_flat_indices": kept,
        "kept_mask": torch.zeros(tiles * patches, dtype=torch.bool)
        .index_fill(0, kept, True)
        .view(tiles, patches),
    }
