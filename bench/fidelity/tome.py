"""Comparison with facebookresearch/ToMe; in positions, CLS counts as 0 if there is one."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from baselines.tome import ToMe
from bench.fidelity.cases import Case
from compress.attach.tower import join


def check(case: Case) -> dict[str, Tensor]:
    first = int(case.value("class_token"))  # position of the first patch
    found: dict[str, list[Tensor]] = {}
    for metric, features, size in zip(case["metric"], case["features"], case["token_size"], strict=True):
        patches = len(metric) - first
        match = ToMe.match(metric[first:], min(case.value("r"), patches // 2), cls=bool(first))
        merge = match.merge()
        tokens, sizes = join(merge, features[first:], size[first:, 0])
        source = F.one_hot(torch.cat([torch.arange(first), merge.into + first]), len(merge.index) + first)
        for name, value in {
            "merged_source_positions": match.source + first,
            "merged_into_positions": match.target + first,
            "unmerged_a_positions": torch.cat([torch.arange(first), match.stay + first]),
            "output_tokens": torch.cat([features[:first], tokens]),
            "output_size": torch.cat([size[:first], sizes[:, None]]),
            "output_source_matrix": source.T.to(torch.uint8),
        }.items():
            found.setdefault(name, []).append(value)
    return {name: torch.stack(values) for name, values in found.items()}
