"""Comparison with obananas/HoloV, whose versions for LLaVA and Qwen agree on these cases."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from baselines.holov import HoloV
from bench.fidelity.cases import Case


def check(case: Case) -> dict[str, Tensor | int]:
    method, chunks, keep = HoloV(surplus="lost"), case.value("num_crops"), case.value("num_keep")
    scores, kept, tokens = [], [], []
    for attention, features in zip(case["attention"], case["image_tokens"], strict=True):
        scores.append(method.scores(attention, features, chunks))
        index = method.kept(attention, features, chunks, keep)
        kept.append(F.pad(index, (0, keep - len(index)), value=-1))
        tokens.append(F.pad(features[index], (0, 0, 0, keep - len(index))))  # the official padding
    order = torch.stack(kept)
    return {
        "crop_scores": torch.stack(scores),
        "crop_allocation": torch.stack([method.allocation(each, keep) for each in scores]),
        "kept_indices_output_order": order,
        "num_padding_tokens": int((order < 0).sum()),
        "output_tokens": torch.stack(tokens),
    }
