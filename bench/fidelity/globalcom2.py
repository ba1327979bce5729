"""Comparison with xuyang-liu16/GlobalCom2: a thumbnail, and crops without their padded borders."""

from __future__ import annotations

from math import isqrt

import torch
from torch import Tensor

from baselines.crops import best_of_each
from baselines.globalcom2 import GlobalCom2
from bench.fidelity.cases import Case


def check(case: Case) -> dict[str, Tensor | int]:
    high, wide, ratio = (case.value(name) for name in ("crops_high", "crops_wide", "retention_ratio"))
    method, whole = GlobalCom2(case.value("temperature")), case["thumbnail_scores"]
    side, patches = isqrt(len(whole)), len(whole)
    best = method.ranked(whole, int(patches * ratio))
    scales = method.scales(whole, (high, wide), ratio)

    def stitched(crops: Tensor) -> Tensor:
        """[P, N] values of each crop -> [rows, columns] values of the image."""
        return crops.view(high, wide, side, side).transpose(1, 2).reshape(high * side, wide * side)

    width, height = case["original_size_wh"].tolist()
    rows, columns = inner(width, height, high * side, wide * side)
    places = stitched(torch.arange(high * wide * patches).view(-1, patches))  # crop * patches + patch
    places = places[rows, columns]
    crop = places.flatten() // patches
    enlarged = method.enlarged(whole, (places.shape[0], places.shape[1]))
    scores = method.guided(case["crop_scores"].flatten()[places.flatten()], enlarged, crop)
    kept = best_of_each(scores, crop, (crop.bincount(minlength=len(scales)) * scales).long())
    valid, chosen = (
        torch.zeros(high * wide * patches, dtype=torch.bool).index_fill(0, which, True).view(-1, patches)
        for which in (places.flatten(), places.flatten()[kept])
    )
    inside = [chosen[number][valid[number]].nonzero()[:, 0] for number in range(high * wide)]
    marked = torch.zeros_like(chosen)
    for number, among_valid in enumerate(inside):  # the official code marks these slots, including padding
        marked[number, among_valid] = True
    newlines = torch.ones(high * side, 1, dtype=torch.bool)
    slots = torch.cat([stitched(marked), newlines], dim=1)
    found: dict[str, Tensor | int] = {
        "kept_thumbnail_indices_output_order": best,
        "kept_thumbnail_indices": best.sort().values,
        "thumbnail_output": case["thumbnail_features"][best],
        "crop_scales": scales,
        "crop_valid_mask": valid,
        "output_slot_mask_with_newline_column": slots.flatten(),
        "output_crop_token_count": int(slots.sum()),
    }
    for number in range(high * wide):
        found[f"crop{number}_kept_valid_indices"] = inside[number]
        found[f"crop{number}_kept_indices"] = chosen[number].nonzero()[:, 0]
    return found


def inner(width: int, height: int, rows: int, columns: int) -> tuple[slice, slice]:
    """The rows and columns of a grid that a centred image of this size fills; the others are padding."""
    if width / height > columns / rows:
        pad = (rows - height * columns // width) // 2
        return slice(pad, rows - pad), slice(columns)
    pad = (columns - width * rows // height) // 2
    return slice(rows), slice(pad, columns - pad)
