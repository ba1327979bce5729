"""Comparison with LunarShen/FastVID, LLaVA-OneVision version, without the noise in densities."""

from __future__ import annotations

import torch
from torch import Tensor

from baselines.fastvid import FastVID
from bench.fidelity.cases import Case
from compress.base import top_k


def check(case: Case) -> dict[str, Tensor | int]:
    method = FastVID(
        segments=case.value("dyseg_c"),
        threshold=case.value("dyseg_tau"),
        context=case.value("stprune_d"),
        step=case.value("dtm_p"),
        weight=case.value("dtm_beta"),
    )
    hidden, start = case["hidden_states"][0], case.value("video_start")
    count, places = case.value("num_frames"), case.value("tokens_per_frame")
    end = start + count * places
    frames = hidden[start:end].view(count, places, -1)
    lengths = method.lengths(case["frame_global_features"])
    budget = method.budget(lengths, places, int(places * case.value("retention_ratio")))
    keep = sum(budget.salient) + sum(budget.centres)
    assert method.solved(lengths, places, keep) == budget, "officially reachable counts are those of the code"
    attention = case["frame_attention"]
    kept, tokens, _ = method.merged(frames, attention, lengths, budget, method.weight)
    place = torch.cat([torch.arange(start), start + kept, torch.arange(end, len(hidden))])
    return {
        "segment_sizes": torch.tensor(lengths),
        "salient_per_frame": budget.salient[0],
        "context_tokens_per_frame": torch.tensor(budget.centres),
        "salient_indices_in_frame": torch.stack([top_k(each, budget.salient[0]) for each in attention]),
        "kept_sequence_positions": place,
        "kept_video_indices": kept,
        "output_hidden_states": torch.cat([hidden[:start], tokens, hidden[end:]])[None],
        "output_position_ids": place[None],
    }
