"""Comparison with the official code of DART, LLaVA version; positions are absolute in the sequence."""

from __future__ import annotations

import torch
from torch import Tensor

from baselines.dart import DART
from bench.fidelity.cases import Case
from compress.base import View


def check(case: Case) -> dict[str, Tensor | int]:
    start, tokens = case.value("image_start"), case.value("num_image_tokens")
    asked = case.value("max_num_truncation")
    if asked < 0:
        asked = int(tokens * (1 - case.value("reduction_ratio")))
    dart = DART(
        image_pivots=case.value("num_image_pivots"),
        text_pivots=case.value("num_text_pivots"),
        budget="official",
    )
    (keep,) = dart.schedule(tokens, asked, 32).values()
    visual = slice(start, start + tokens)
    others = torch.cat([torch.arange(start), torch.arange(start + tokens, case["key_states"].shape[2])])
    keys, states = case["key_states"][0].transpose(0, 1), case["normed_hidden_states"][0]
    view = View(
        depth=2,
        hidden=states[visual],
        visual=states.new_empty(0),
        text=states.new_empty(len(others), 0),
        index=torch.arange(tokens),
        grid=(1, tokens),
        before=start,
        context=states[others],
        decoder_keys=lambda layer: (keys[visual], keys[others]),
        norm=lambda normed: normed,  # as recorded
    )
    norms = dart.features(view)[0].abs().sum(1)
    image, text, order = dart.pivots(norms, tokens, start, keep)
    kept = dart.select(view, keep).index
    return {
        "tokens_per_pivot": dart.shares(keep - len(image), len(order))[0],
        "image_pivots_by_norm": start + image,
        "text_pivots_by_norm": start + text,
        "pivot_processing_order": start + torch.tensor(order),
        "kept_absolute_positions": start + kept,
        "kept_image_indices": kept,
    }
