"""Comparison with Ironieser/MMTok, the variant for LLaVA."""

from __future__ import annotations

from torch import Tensor

from baselines.mmtok import MMTok
from bench.fidelity.cases import Case


def check(case: Case) -> dict[str, Tensor]:
    options = {name: case.value(name) for name in ("alpha", "text_temperature", "vision_temperature")}
    order = MMTok(**options).order(
        case["text_embeds"], case["projected_features"], case["tower_features"], case.value("num_keep")
    )
    return {"selection_order": order, "kept_indices": order.sort().values}
