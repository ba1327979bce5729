"""Comparison with jytmelon/G-Prune: the thumbnail, and the stitched crops with a newline after every row."""

from __future__ import annotations

import torch
from torch import Tensor

from baselines.gprune import GPrune
from bench.fidelity.cases import Case
from compress.base import top_k


def check(case: Case) -> dict[str, Tensor]:
    method = GPrune(
        case.value("similarity_threshold"), case.value("temperature"), case.value("num_iterations")
    )
    rows, columns = case.value("grid_rows"), case.value("grid_cols")
    whole, lines = case["thumbnail_features"], case["grid_features_with_newline"].view(rows, columns + 1, -1)
    thumbnail, grid = method.importance(whole), method.importance(lines[:, :-1].flatten(0, 1))
    best, inside = (
        top_k(scores, int(case.value("keep_ratio") * len(scores))) for scores in (thumbnail, grid)
    )
    inside = inside + inside // columns
    newlines = torch.arange(1, rows + 1) * (columns + 1) - 1
    return {
        "thumbnail_scores": thumbnail,
        "grid_scores": grid,
        "kept_thumbnail_indices": best,
        "kept_grid_positions_with_newline_layout": inside,
        "kept_all_indices": torch.cat([best, len(whole) + torch.cat([inside, newlines]).sort().values]),
    }
