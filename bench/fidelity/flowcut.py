"""Comparison with TungChintao/FlowCut, CLIP version: the image that loses most decides for its batch."""

from __future__ import annotations

from functools import partial
from math import isqrt

import torch
from torch import Tensor

from baselines.flowcut import FlowCut
from bench.fidelity.cases import Case
from compress.attach.tower import Crowd, join
from compress.base import TowerView


def check(case: Case) -> dict[str, Tensor]:
    keep, hidden = case.value("num_keep"), case["hidden_states"]
    patches, flowcut = hidden.shape[1], FlowCut()
    blocks = sorted(flowcut.tower(patches, keep, case.value("num_layers") - 1))
    crowds = [Crowd(torch.arange(patches), torch.ones(patches)) for _ in hidden]
    tokens, after = list(hidden), []
    for block in blocks:
        if len(crowds[0]) > keep:
            views = [
                TowerView(
                    block, rows, crowd.size, crowd.index, (isqrt(patches), isqrt(patches)),
                    values=partial(values_of, case["values"][block, image], crowd.index),
                    cls=partial(case["cls_attention"][block, image].index_select, 1, crowd.index),
                    left=len(blocks) - 1 - block, carried=crowd.carried,
                )
                for image, (rows, crowd) in enumerate(zip(tokens, crowds, strict=True))
            ]  # fmt: skip
            left = min(flowcut.leaves(view.cls().mean(0), keep, view.left) for view in views)
            merges = [flowcut.cut(view, left) for view in views]
            joined = [join(merge, view.hidden, view.size) for merge, view in zip(merges, views, strict=True)]
            tokens = [values for values, _ in joined]
            crowds = [
                Crowd(view.index[merge.index], sizes, merge.carry)
                for view, merge, (_, sizes) in zip(views, merges, joined, strict=True)
            ]
        after.append(len(crowds[0]))
    return {
        "patches_after_layer": torch.tensor(after),
        "kept_indices": torch.stack([crowd.index for crowd in crowds]),
        "output_tokens": torch.stack(tokens),
    }


def values_of(values: Tensor, index: Tensor) -> Tensor:
    """[1 + n, H, d] values of CLS and of the remaining patches, from all values [H, 1 + N, d]."""
    return values[:, torch.cat([index.new_zeros(1), index + 1])].transpose(0, 1)
