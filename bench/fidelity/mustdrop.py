"""Comparison with liuting20/MustDrop, which merges as many windows per image as the image with the fewest."""

from __future__ import annotations

from math import isqrt

import torch
from torch import Tensor

from baselines.mustdrop import MustDrop
from bench.fidelity.cases import Case
from compress.attach.tower import join
from compress.base import TowerView


def check(case: Case) -> dict[str, Tensor | int]:
    return {**merging(case), "key_token_indices_in_score_order": key_tokens(case), **dropping(case)}


def merging(case: Case) -> dict[str, Tensor | int]:
    """The stage in the tower, after its first layer."""
    window, images = case.value("window"), case["vision_hidden_states"][:, 1:]
    patches, side = images.shape[1], isqrt(images.shape[1])
    ones = torch.ones(patches)
    views = [TowerView(0, hidden, ones, torch.arange(patches), (side, side)) for hidden in images]
    official = MustDrop(window, similarity=case.value("similarity_threshold"), adaptive=True)
    left = max(len(official.merge(view, 0).index) for view in views)
    count = (patches - left) // official.saving
    found: dict[str, list[Tensor]] = {}
    for whole, view in zip(case["vision_hidden_states"], views, strict=True):
        score, members = MustDrop.windows(view.hidden, view.grid, window)
        merge = MustDrop(window).merge(view, left)
        tokens, sizes = join(merge, view.hidden, ones)
        for name, value in {
            "window_similarity": score,
            "merged_window_ids_in_order": (members == merge.index[:count, None, None]).any(2).int().argmax(1),
            "unmerged_patch_indices": merge.index[count:],
            "merged_hidden_states": torch.cat([whole[:1], tokens]),
            "merged_sizes": torch.cat([torch.ones(1), sizes])[:, None],
        }.items():
            found.setdefault(name, []).append(value)
    return {"num_merged_windows": count, **{name: torch.stack(values) for name, values in found.items()}}


def key_tokens(case: Case) -> Tensor:
    """[B, ceil(rate * n)] key tokens, from the last layer of the tower."""
    attention = case["cls_attention_layer23"][:, :, 1:]
    rate, entered = case.value("key_rate"), attention.shape[2]
    return torch.stack([MustDrop.key_tokens(cls, rate, entered) for cls in attention])


def dropping(case: Case) -> dict[str, Tensor]:
    """A stage in the decoder, for the first image."""
    attention = case["llm_text_to_visual_attention"].mean(0)
    key = key_tokens(case)[0]
    important = MustDrop.important(
        attention, case.value("global_threshold"), case.value("individual_threshold")
    )
    stays = important.index_fill(0, key, True).nonzero()[:, 0]
    return {
        "llm_important_indices": important.nonzero()[:, 0],
        "llm_kept_indices_with_keys": stays,
        "llm_key_set_after": torch.isin(stays, key).nonzero()[:, 0],
    }
