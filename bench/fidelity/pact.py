"""Comparison with orailix/PACT, LLaVA-OneVision version."""

from __future__ import annotations

import torch
from torch import Tensor

from baselines.pact import PACT
from bench.fidelity.cases import Case
from compress.base import View


def check(case: Case) -> dict[str, Tensor]:
    hidden = case["hidden_states"]
    visual = torch.arange(case.value("image_start"), len(hidden))
    queries, keys = case["queries"], case["keys"]
    queries = queries * queries.shape[2] ** -0.5
    view = View(
        depth=4,
        hidden=hidden[visual],
        visual=hidden.new_empty(0),
        text=hidden.new_empty(0),
        index=visual - visual[0],
        grid=(1, len(visual)),
        unrotated=lambda layer: (queries, keys, visual),
        decoder_keys=lambda layer: (case["keys_rotated"][visual], keys[:0]),
    )
    kept = case.value("keep_ratio_before_clustering")
    pact = PACT(
        kept=kept, cutoff=case.value("cutoff"), recovery=case.value("recovery_coefficient"), adaptive=True
    )
    scores = pact.scores(queries, keys, visual, view.hidden)
    chosen = pact.select(view, 0)
    assert chosen.into is not None and chosen.tokens is not None
    return {
        "scores": scores,
        "kept_after_pruning": pact.candidates(scores, 0),
        "centre_indices": chosen.index,
        "cluster_of_token": torch.cat([chosen.index, chosen.index.new_tensor([-1])])[chosen.into],
        "cluster_sizes": torch.stack([(chosen.into == centre).sum() for centre in range(len(chosen.index))]),
        "output_tokens": chosen.tokens,
    }
