"""Comparison with dvlab-research/VisionZip; in positions, CLS counts as 0."""

from __future__ import annotations

import torch
from torch import Tensor

from baselines.visionzip import VisionZip
from bench.fidelity.cases import Case


def check(case: Case) -> dict[str, Tensor]:
    dominant, targets, tokens = [], [], []
    for attention, hidden, keys in zip(
        case["cls_attention"], case["hidden_states"], case["key_metric"], strict=True
    ):
        zipped = VisionZip.zip(
            attention[:, 1:].sum(0),
            keys[1:],
            hidden[1:],
            case.value("num_dominant"),
            case.value("num_contextual"),
        )
        dominant.append(torch.cat([torch.zeros(1, dtype=torch.long), zipped.dominant + 1]))
        targets.append(zipped.targets + 1)
        tokens.append(torch.cat([hidden[:1], hidden[1:][zipped.dominant], zipped.merged]))
    return {
        "kept_dominant_positions": torch.stack(dominant),
        "contextual_target_positions": torch.stack(targets),
        "output_tokens": torch.stack(tokens),
    }
