"""Comparison with 42Shawn/LLaVA-PruMerge, PruMerge and PruMerge+; CLS is position 0 of the keys."""

from __future__ import annotations

import torch
from torch import Tensor

from baselines.prumerge import PruMerge, PruMergePlus
from bench.fidelity.cases import Case


def check(case: Case) -> dict[str, Tensor | float]:
    kind = PruMergePlus if case.value("plus") else PruMerge
    method = kind(adaptive=case.value("adaptive"), neighbours=case.value("num_neighbours"))
    keys, features = case["keys"], case["patch_features"]
    scores = (keys @ case["cls_query"][..., None])[..., 0] * keys.shape[-1] ** -0.5  # [B, 1 + N], of one head
    attention = torch.stack([method.attention(row[None]) for row in scores])
    ratio = method.ratio(attention) if method.adaptive else case.value("requested_ratio")
    centres = torch.stack([method.outlying(row, ratio) for row in attention])
    return {
        "cls_attention": attention,
        "used_ratio": ratio,
        "kept_indices_output_order": centres,
        "kept_indices": centres.sort().values,
        "output_tokens": torch.stack(
            [method.fused(*sample) for sample in zip(attention, keys[:, 1:], features, centres, strict=True)]
        ),
    }
