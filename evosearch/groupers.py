"""From vectors to groups: which items compete for one place.

A grouper is called with vectors [N, D] and returns exactly `groups` groups: its own partition of the items,
cut down or split up by `Grouping.largest`. `partition` gives all groups, before that.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from random import Random

import numpy as np
import numpy.typing as npt

from evosearch.grouping import Grouping, Ints

Floats = npt.NDArray[np.floating]

ANCHORS_PER_BLOCK = 4096


@dataclass(frozen=True, eq=False)
class Grouper(ABC):
    """Vectors [N, D] -> Grouping with exactly `groups` groups; fields are the options."""

    groups: int

    def __call__(self, vectors: npt.ArrayLike) -> Grouping:
        return self.partition(vectors).largest(self.groups)

    def partition(self, vectors: npt.ArrayLike) -> Grouping:
        """All groups of all items, before the rule that makes them exactly `groups`."""
        array = np.asarray(vectors)
        if array.ndim != 2 or not 1 <= self.groups <= len(array):
            raise ValueError(
                f"vectors {list(array.shape)} cannot make {self.groups} groups: give [N, D] and 1 to N groups"
            )
        if not np.isfinite(array).all():
            raise ValueError("vectors to be grouped hold values that are not finite")
        return Grouping.from_labels(self.labels(array.astype(np.float32, copy=False)))

    @abstractmethod
    def labels(self, vectors: Floats) -> Ints:
        """The group number of every item, [N]; numbers mean nothing beyond being equal or not."""


@dataclass(frozen=True, eq=False)
class Vocabulary(Grouper):
    """Items whose nearest anchor by cosine is the same, as visual tokens that share a word; the paper's."""

    anchors: Floats  # [V, D]
    # Numbers of the anchors nearest to vectors, computed elsewhere, for instance on a GPU.
    nearest: Callable[[Floats], Ints] | None = None

    def labels(self, vectors: Floats) -> Ints:
        if self.nearest is not None:
            return self.nearest(vectors)
        if self.anchors.ndim != 2 or self.anchors.shape[1] != vectors.shape[1]:
            raise ValueError(
                f"anchors {list(self.anchors.shape)} do not fit vectors of width {vectors.shape[1]}"
            )
        nearest = np.zeros(len(vectors), dtype=np.int64)
        highest = np.full(len(vectors), -np.inf, dtype=np.float32)
        for start in range(0, len(self.anchors), ANCHORS_PER_BLOCK):
            block = slice(start, start + ANCHORS_PER_BLOCK)
            # [N, B] up to each item's own norm, which changes no argmax
            cosine = (vectors @ self.anchors[block].T) * self._scale[block]
            best = cosine.argmax(axis=1)
            value = np.take_along_axis(cosine, best[:, None], axis=1)[:, 0]
            nearest = np.where(value > highest, best + start, nearest)
            highest = np.maximum(value, highest)
        return nearest

    @cached_property
    def _scale(self) -> Floats:
        norms = np.sqrt(np.einsum("vd,vd->v", self.anchors, self.anchors, dtype=np.float64)).astype(
            np.float32
        )
        # an all-zero anchor (padding) counts as at right angles to everything
        return np.divide(1, norms, out=np.zeros_like(norms), where=norms > 0)


@dataclass(frozen=True)
class Clusters:
    """What DPC-KNN finds in N vectors; centres and clusters are numbered by falling score."""

    density: Floats  # [N], in (0, 1] apart from noise
    distance: Floats  # [N], to the nearest denser vector, in units of sqrt(D)
    score: Floats  # [N], density * distance
    centres: Ints  # [M], by falling score
    assignment: Ints  # [N], cluster of every vector


def dpc_knn(
    vectors: npt.ArrayLike, clusters: int, neighbours: int = 5, noise: npt.ArrayLike | None = None
) -> Clusters:
    """Density peak clustering with k nearest neighbours, as in TCFormer's reference code (`cluster_dpc_knn`).

    A vector's density falls with its mean squared distance to the `neighbours` nearest, of which it counts
    itself as one. `noise` [N] in [0, 1), scaled by 1e-6, separates equal densities; without it, identical
    vectors are each as good a centre as the other. Equal scores go to the lower index.
    """
    from scipy.spatial.distance import cdist  # not at the top: only this grouper needs it

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
        """The clustering itself; its `centres` are the tokens of the "DPC-KNN" label kind."""
        rng = Random(self.seed)
        return dpc_knn(vectors, self.groups, self.neighbours, [rng.random() for _ in range(len(vectors))])


@dataclass(frozen=True, eq=False)
class RandomGroups(Grouper):
    """Groups of equal size drawn at random; the vectors are not looked at."""

    seed: int = 0

    def labels(self, vectors: Floats) -> Ints:
        order = list(range(len(vectors)))
        Random(self.seed).shuffle(order)
        labels = np.empty(len(vectors), dtype=np.int64)
        labels[order] = np.arange(len(vectors)) % self.groups
        return labels


@dataclass(frozen=True, eq=False)
class KMeans(Grouper):
    """K-means clusters of the vectors (scikit-learn)."""

    seed: int = 0
    starts: int = 1  # independent runs, of which the tightest counts

    def labels(self, vectors: Floats) -> Ints:
        from sklearn.cluster import KMeans as Clusterer  # not at the top: a second of import time

        distinct = min(self.groups, len(np.unique(vectors, axis=0)))
        seed = self.seed % 2**32  # all that scikit-learn takes
        clusterer = Clusterer(n_clusters=distinct, n_init=self.starts, random_state=seed)
        return clusterer.fit_predict(vectors).astype(np.int64)


@dataclass(frozen=True, eq=False)
class Grid(Grouper):
    """Rectangular blocks of neighbouring items on a rows x columns grid; the vectors are not looked at."""

    grid: tuple[int, int]

    def labels(self, vectors: Floats) -> Ints:
        rows, columns = self.grid
        if rows * columns != len(vectors):
            raise ValueError(f"a grid of {rows} x {columns} does not hold {len(vectors)} items")
        labels = np.empty((rows, columns), dtype=np.int64)
        for number, block in enumerate(blocks(rows, columns, self.groups)):
            labels[block] = number
        return labels.ravel()


def blocks(rows: int, columns: int, count: int) -> list[tuple[slice, slice]]:
    """Cut a rectangle into exactly `count` blocks of similar area, always halving the longer side."""
    done: list[tuple[slice, slice]] = []
    open_ = [(0, rows, 0, columns, count)]
    while open_:
        top, bottom, left, right, share = open_.pop()
        height, width = bottom - top, right - left
        if share == 1:
            done.append((slice(top, bottom), slice(left, right)))
            continue
        area = height * width
        if height >= width:
            middle, first = top + height // 2, (height // 2) * width
        else:
            middle, first = left + width // 2, (width // 2) * height
        fair = (2 * share * first + area) // (2 * area)  # rounded to nearest
        part = min(max(fair, 1, share - (area - first)), first, share - 1)  # a block has at least one item
        if height >= width:
            open_ += [(middle, bottom, left, right, share - part), (top, middle, left, right, part)]
        else:
            open_ += [(top, bottom, middle, right, share - part), (top, bottom, left, middle, part)]
    return done


GROUPERS: dict[str, type[Grouper]] = {
    "vocabulary": Vocabulary,
    "dpc-knn": DpcKnn,
    "random": RandomGroups,
    "k-means": KMeans,
    "grid": Grid,
}
