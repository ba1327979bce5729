"""Comparison with the density peak clustering of zengwang430521/TCFormer."""

from __future__ import annotations

import torch
from torch import Tensor

from bench.fidelity.cases import Case
from evosearch.groupers import dpc_knn


def check(case: Case) -> dict[str, Tensor]:
    found: dict[str, list[Tensor]] = {}
    for points, noise in zip(case["features"], case["density_noise_uniform"], strict=True):
        clusters = dpc_knn(
            points.numpy(), case.value("num_clusters"), case.value("k_neighbours"), noise.tolist()
        )
        for name, value in {
            "density": clusters.density,
            "distance_to_higher_density": clusters.distance,
            "score": clusters.score,
            "centre_indices_in_score_order": clusters.centres,
            "cluster_assignment": clusters.assignment,
        }.items():
            found.setdefault(name, []).append(torch.as_tensor(value))
    whole = {name: torch.stack(values) for name, values in found.items()}
    return {**whole, "centre_indices": whole["centre_indices_in_score_order"].sort(1).values}
