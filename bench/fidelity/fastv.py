"""Comparison with pkunlp-icler/FastV, the in-place variant."""

from __future__ import annotations

import torch
from torch import Tensor

from baselines.fastv import FastV
from bench.fidelity.cases import Case
from compress.base import top_k


def check(case: Case) -> dict[str, Tensor]:
    start, tokens = case.value("image_start"), case.value("num_image_tokens")
    last = case["attention"][0, :, -1] if "attention" in case else case["attention_last_query"]  # [H, L]
    scores = FastV.rank(last[:, None, start : start + tokens])
    kept = top_k(scores, case.value("num_keep"))
    place = torch.cat([torch.arange(start), start + kept, torch.arange(start + tokens, last.shape[1])])
    return {
        "kept_image_indices": kept,
        "kept_sequence_positions": place,
        "output_hidden_states": case["hidden_states"][:, place],
        "output_position_ids": place[None],
    }
