from __future__ import annotations

from dataclasses import dataclass
from random import Random

import numpy as np
import numpy.typing as npt

from evosearch.groupers.base import Floats, Grouper
from evosearch.grouping import Ints


@dataclass(frozen=True)
class Clusters:
    """The result of DPC-KNN for N vectors; centres and clusters are numbered by falling score."""

    density: Floats  # [N], in (0, 1] without the noise
    distance: Floats  # [N], to the nearest denser vector, in units of sqrt(D)
    score: Floats  # [N], density * distance
    centres: Ints  # [M], by falling score
    assignment: Ints  # [N], cluster of every vector


def dpc_knn(
    vectors: npt.ArrayLike, clusters: int, neighbours: int = 5, noise: npt.ArrayLike | None = None
) -> Clusters:
    """Density peak clustering with k nearest neighbours, as in TCFormer's reference code (`cluster_dpc_knn`).

    A vector's density falls with its mean squared distance to the `neighbours` nearest vectors, itself
    included. `noise` [N] in [0, 1), scaled by 1e-6, separates equal densities; without it, identical vectors
    are equally good centres. Of equal scores, the lower index comes first.
    """
    from scipy.spatial.distance import cdist  # imported late: only this grouper needs it

    points = np.asarray(vectors, dtype=np.float64)
    if not 1 <= clusters <= len(points) or neighbours < 1:
        raise ValueError(
            f"clusters={clusters}, neighbours={neighbours}: choose 1 to {len(points)} clusters for that many "
            "vectors, and 1 neighbour or more"
        )
    apart = cdist(points, points) / np.sqrt(points.shape[1])  # [N, N]
    nearest = min(neighbours, len(points))
    density = np.exp(-np.mean(np.partition(apart, nearest - 1, axis=1)[:, :nearest] ** 2, axis=1))
    if noise is not None:
        density += 1e-6 * np.asarray(noise, dtype=np.float64)
    denser = density[None, :] > density[:, None]
    distance = np.where(denser, apart, apart.max()).min(axis=1)
    score = density * distance
    centres = np.argsort(-score, kind="stable")[:clusters]
    assignment = apart[:, centres].argmin(axis=1)
    assignment[centres] = np.arange(clusters)
    return Clusters(density, distance, score, centres.astype(np.int64), assignment.astype(np.int64))


@dataclass(frozen=True, eq=False)
class DpcKnn(Grouper):
    """Density peak clusters over nearest neighbours (TCFormer); the paper's ablation keeps their centres."""

    neighbours: int = 5
    seed: int = 0  # of the noise that separates equal densities

    def labels(self, vectors: Floats) -> Ints:
        return self.clusters(vectors).assignment

    def clusters(self, vectors: Floats) -> Clusters:
        """Return the clustering; its `centres` are the tokens of the "DPC-KNN" label kind."""
        rng = Random(self.seed)
        return dpc_knn(vectors, self.groups, self.neighbours, [rng.random() for _ in range(len(vectors))])
