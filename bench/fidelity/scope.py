"""Comparison with kinredon/SCOPE, the variant at the tower's output."""

from __future__ import annotations

import torch
from torch import Tensor

from baselines.scope import SCOPE
from bench.fidelity.cases import Case
from compress.coverage import likeness


def check(case: Case) -> dict[str, Tensor]:
    method = SCOPE(case.value("alpha"))
    order = torch.stack(
        [
            method.order(attention.sum(0), features, case.value("num_keep"))
            for attention, features in zip(case["cls_attention"], case["features"], strict=True)
        ]
    )
    covered = [
        likeness(features)[kept].amax(0).sum() for features, kept in zip(case["features"], order, strict=True)
    ]
    return {
        "selection_order": order,
        "kept_indices": order.sort(1).values,
        "coverage": torch.stack(covered),
    }
