"""Comparison with cokeshao/HoliTom: the outer part, without noise in densities, and the decoder's merging."""

from __future__ import annotations

import torch
from torch import Tensor

from baselines.holitom import HoliTom, redundant
from baselines.videos import cosine
from bench.fidelity.cases import Case


def check(case: Case) -> dict[str, Tensor | float]:
    method = HoliTom(
        similarity=case.value("tau"),
        weight=case.value("beta"),
        neighbours=case.value("K"),
        window=case.value("max_window_size"),
    )
    frames = case["features"]
    count, places, _ = frames.shape
    total = count * places
    windows, static = method.windows(cosine(frames[:-1], frames[1:]) > method.similarity)
    saved = redundant(windows, static)
    ratio = min(1, case.value("retain_ratio") / ((total - saved) / total))
    counts = method.counts(windows, method.sizes(windows, static, places), ratio)
    index, tokens, _ = method.merged(frames, case["attention_received"], windows, static, counts)
    parts, per_window = iter(counts), []
    for start, end in windows:
        per_window.append(sum(next(parts) for _ in range(end - start + 2)))
    return {
        "windows_first_last_frame": torch.tensor(windows),
        "static_tokens_per_window": torch.stack([still.sum() for still in static]),
        "total_reduced": float(saved),
        "adjusted_ratio": ratio,
        "output_tokens_per_window": torch.tensor(per_window),
        "output_tokens": tokens,
    }


def inner(case: Case) -> dict[str, Tensor]:
    hidden, start, tokens = (
        case["hidden_states"][0],
        case.value("image_start"),
        case.value("num_image_tokens"),
    )
    end = start + tokens
    attention = case["attention_last_query"][:, start:end].mean(0)
    keep = round(tokens * (1 - case.value("prune_ratio")))
    kept, merged, _ = HoliTom.folded(attention, hidden[start:end], keep)
    place = torch.cat([torch.arange(start), start + kept, torch.arange(end, len(hidden))])
    return {
        "kept_image_indices": kept,
        "kept_sequence_positions": place,
        "output_hidden_states": torch.cat([hidden[:start], merged, hidden[end:]])[None],
        "output_position_ids": place[None],
    }
