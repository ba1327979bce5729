"""Density peak clustering with k nearest neighbours (DPC-KNN) on the device of the points."""

from __future__ import annotations

import torch
from torch import Tensor


def peaks(points: Tensor, neighbours: int, noise: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return distances [C, C] of points [C, width], in units of sqrt(width), and scores [C] as centres.

    The score of a point is its density times its distance to the nearest denser point. The density falls with
    the mean squared distance to the `neighbours` nearest points, the point itself included. The first C
    values of `noise`, in [0, 1), are scaled by 1e-6 and added to the densities.
    """
    apart = torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist") / points.shape[1] ** 0.5
    nearest = apart.topk(min(neighbours, len(points)), largest=False).values
    density = nearest.square().mean(1).neg().exp()
    if noise is not None:
        density = density + 1e-6 * noise[: len(points)].to(density)
    denser = density > density[:, None]
    return apart, density * torch.where(denser, apart, apart.max()).amin(1)


def density_peaks(
    points: Tensor, clusters: int, neighbours: int, noise: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return the centres [clusters], best first, and the cluster [C] of each of points [C, width]."""
    apart, score = peaks(points, neighbours, noise)
    # Two clusters form around the two closest points, which have equal scores: topk decides their order.
    centres = score.topk(clusters).indices
    assignment = apart[:, centres].argmin(1)
    assignment[centres] = torch.arange(clusters, device=points.device)
    return centres, assignment
