from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from evosearch.groupers.base import Floats, Grouper
from evosearch.grouping import Ints

ANCHORS_PER_BLOCK = 4096


@dataclass(frozen=True, eq=False)
class Vocabulary(Grouper):
    """Items with the same nearest anchor by cosine, as visual tokens that share a word (the paper's)."""

    anchors: Floats  # [V, D]
    # A function that computes the nearest anchors of vectors elsewhere, for instance on a GPU.
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
            # [N, B] without division by the items' norms, which does not change the argmax
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
        # an all-zero anchor (padding) has cosine 0 with everything
        return np.divide(1, norms, out=np.zeros_like(norms), where=norms > 0)
