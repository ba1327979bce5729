"""Density peak clustering with nearest neighbours (DPC-KNN) on the device of its points."""

from __future__ import annotations

import torch
from torch import Tensor


def peaks(points: Tensor, neighbours: int, noise: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """How far points [C, width] are apart [C, C], in units of sqrt(width), and their scores [C] as centres.

    The score is a point's density, which falls with its mean squared distance to the `neighbours` nearest,
    itself among them, times its distance to the nearest denser point. `noise` in [0, 1), of which the first C
    are used, is scaled by 1e-6 and added to densities.
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
    """Centres [clusters], best first, and the cluster [C] of each of points [C, width]."""
    apart, score = peaks(points, neighbours, noise)
    # Two clusters form around the two closest points, equal in every number: who is first is up to topk.
    centres = score.topk(clusters).indices
    assignment = apart[:, centres].argmin(1)
    assignment[centres] = torch.arange(clusters, device=points.device)
    return centres, assignment
