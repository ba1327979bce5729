"""Comparison with the published rule of EVS; no official code was executed."""

from __future__ import annotations

import torch
from torch import Tensor

from baselines.evs import EVS
from bench.fidelity.cases import Case
from compress.base import top_k


def check(case: Case) -> dict[str, Tensor | int]:
    embeds = case["video_embeds"]
    frames, places, _ = embeds.shape
    tokens = frames * places
    keep = max(places, int(tokens * (1 - case.value("pruning_rate"))))
    kept = top_k(EVS.novelty(embeds).flatten(), keep)
    return {
        "num_retained": keep,
        "retention_mask": torch.zeros(tokens, dtype=torch.bool).index_fill(0, kept, True),
        "retained_indices": kept,
        "retained_per_frame": (kept // places).bincount(minlength=frames),
    }
