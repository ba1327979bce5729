"""Comparison with Tencent/SelfEvolvingAgent, VScan: the versions for LLaVA and for Qwen2.5-VL."""

from __future__ import annotations

import torch
from torch import Tensor

from baselines.vscan import VScan
from bench.fidelity.cases import Case

NAMES = "local_indices", "global_indices", "kept_indices", "output_tokens"


def check(case: Case) -> dict[str, Tensor]:
    method, keep = VScan(window=case.value("window")), case.value("visual_token_num")
    side = round(case["projected_features"].shape[1] ** 0.5)
    place = torch.arange(side**2)
    window, windows = method.windows(place // side, place % side)
    parts = []
    for shallow, deep, features in zip(
        case["cls_attention_shallow"], case["cls_attention_deep"], case["projected_features"], strict=True
    ):
        local = method.local(shallow.mean(0), window, windows, keep // 2)
        late = method.remaining(deep.mean(0), local, keep - keep // 2)  # official: windows may select fewer
        kept = torch.cat([local, late]).sort().values
        parts.append((local, late, kept, method.merged(features, kept)[0]))
    return {name: torch.stack(part) for name, part in zip(NAMES, zip(*parts, strict=True), strict=True)}


def qwen(case: Case) -> dict[str, Tensor]:
    method, embeds = VScan(window=case.value("window")), case["embeds"]
    keep, place = int(case.value("ratio") * len(embeds)), torch.arange(len(embeds))
    window, windows = method.windows(place // case.value("grid_cols"), place % case.value("grid_cols"))
    local = method.capped(case["attention_received_local"], window, windows, keep // 2)
    late = method.remaining(case["attention_received_global"], local, keep - keep // 2)
    kept = torch.cat([local, late]).sort().values
    return dict(zip(NAMES, (local, late, kept, method.merged(embeds, kept)[0]), strict=True))
