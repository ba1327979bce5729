from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from evosearch.groupers.base import Floats, Grouper
from evosearch.grouping import Ints


@dataclass(frozen=True, eq=False)
class KMeans(Grouper):
    """K-means clusters of the vectors (scikit-learn)."""

    seed: int = 0
    starts: int = 1  # independent runs, of which the best is used

    def __post_init__(self) -> None:
        if not 1 <= self.starts <= 1000:
            raise ValueError(f"starts={self.starts}: choose between 1 and 1000")

    def labels(self, vectors: Floats) -> Ints:
        from sklearn.cluster import KMeans as Clusterer  # imported late: it takes a second

        distinct = min(self.groups, len(np.unique(vectors, axis=0)))
        seed = self.seed % 2**32  # the range that scikit-learn accepts
        clusterer = Clusterer(n_clusters=distinct, n_init=self.starts, random_state=seed)
        return clusterer.fit_predict(vectors).astype(np.int64)
