"""Comparison with Gumpest/SparseVLMs: one stage of version 1.5, and the counts of version 1.0."""

from __future__ import annotations

import torch
from torch import Tensor

from baselines.sparsevlm import SparseVLM
from bench.fidelity.cases import Case


def check(case: Case) -> dict[str, Tensor | int]:
    start, tokens, keep = (case.value(name) for name in ("image_start", "num_visual", "num_keep"))
    end = start + tokens
    embeddings, hidden = case["input_embeds"][0], case["layer_hidden_states"][0]
    relevance = SparseVLM.relevance(embeddings[start:end], embeddings[end:])
    raters = SparseVLM.raters(relevance)
    scores = SparseVLM.score(case["text_to_visual_attention"][:, raters])
    clusters = SparseVLM.clusters(tokens - keep)
    parts = SparseVLM.recycle(scores, hidden[start:end], keep, clusters)
    output = torch.cat([hidden[:start], hidden[start:end][parts.kept], parts.merged, hidden[end:]])
    return {
        "text_relevance": relevance,
        "rater_text_indices": raters,
        "visual_scores": scores,
        "kept_image_indices": parts.kept,
        "recycle_candidates_in_score_order": parts.candidates,
        "num_clusters": clusters,
        "cluster_centre_candidate_slots": parts.centres,
        "cluster_assignment_of_candidates": parts.assignment,
        "merged_tokens": parts.merged,
        "output_hidden_states": output[None],
        "output_position_ids": torch.arange(len(output))[None],
        "num_visual_after": keep + clusters,
    }


def rank(case: Case) -> dict[str, Tensor | int | bool]:
    tokens = case.value("num_visual")
    method = SparseVLM(adaptive=True, scale=case.value("scale"), bias=case.value("bias"))
    attention = case["text_to_visual_attention"][:, case["rater_text_indices"]]
    scores = method.score(attention)
    keep, clusters = method.counts(attention, 0)
    parts = method.recycle(scores, scores[:, None], keep, clusters)
    return {
        "matrix_rank": method.rank(attention),
        "num_keep": keep,
        "visual_scores": scores,
        "kept_image_indices": parts.kept,
        "sparsify": keep < tokens,
    }
