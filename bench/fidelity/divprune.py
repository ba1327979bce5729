"""Comparison with vbdi/divprune; positions are those of the whole sequence."""

from __future__ import annotations

import torch
from torch import Tensor

from baselines.divprune import DivPrune
from bench.fidelity.cases import Case


def check(case: Case) -> dict[str, Tensor | int]:
    embeds, start = case["visual_embeds"], case.value("image_start")
    keep = round(case.value("subset_ratio") * len(embeds))
    order = DivPrune.order(embeds, keep)
    kept = order.sort().values
    after = start + len(embeds) + torch.arange(case.value("num_text_after"))
    return {
        "num_keep": keep,
        "selection_order": order,
        "kept_image_indices": kept,
        "kept_sequence_positions": torch.cat([torch.arange(start), start + kept, after]),
    }
