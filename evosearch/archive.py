"""The archive of all evaluated candidates: the cache of a search and the data that labels are made from."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from evosearch.grouping import Ints

Losses = npt.NDArray[np.float64]
Fitness = Callable[[Ints], npt.ArrayLike]  # indices [P, G], rows ascending -> losses [P], lower is better
T = TypeVar("T")
Proposals = Generator[Ints, npt.ArrayLike, T]  # yields arguments of a fitness, is sent its results


class Archive:
    """Unique candidates with their losses, in the order of evaluation."""

    def __init__(self) -> None:
        self.asked = 0  # candidates looked up, seen before or not
        self._place: dict[bytes, int] = {}
        self._batches: list[Ints] = []
        self._losses: list[float] = []

    def __len__(self) -> int:
        return len(self._losses)

    @property
    def indices(self) -> Ints:
        """Kept items of every candidate, [E, G], rows ascending."""
        return np.concatenate(self._batches) if self._batches else np.empty((0, 0), dtype=np.int64)

    @property
    def losses(self) -> Losses:
        """[E]"""
        return np.array(self._losses, dtype=np.float64)

    @property
    def hit_rate(self) -> float:
        """Share of the proposed candidates that were known already and cost nothing."""
        return 1 - len(self) / self.asked if self.asked else 0.0

    def evaluate(
        self, indices: Ints, room: int | None = None
    ) -> Proposals[tuple[list[float | None], list[int]]]:
        """Look up or evaluate a batch [P, G]; at most `room` new candidates are requested, all at once.

        Returns the losses, None for new candidates beyond `room`, and the rows that were evaluated.
        """
        keys = [row.tobytes() for row in indices]
        first: dict[bytes, int] = {}
        for row, key in enumerate(keys):
            if key not in self._place:
                first.setdefault(key, row)
        rows = list(first.values())[:room]
        if rows:
            batch = indices[rows]
            losses = measured((yield batch.copy()), batch, len(self))
            for row in rows:
                self._place[keys[row]] = len(self._place)
            self._batches.append(batch)
            self._losses += losses
        places = [self._place.get(key) for key in keys]
        self.asked += sum(place is not None for place in places)
        return [None if place is None else self._losses[place] for place in places], rows


def measured(answer: npt.ArrayLike, batch: Ints, before: int) -> list[float]:
    """Return the result of a fitness as one finite float per candidate; ValueError for anything else."""
    losses = np.asarray(answer, dtype=np.float64)
    if losses.shape != (len(batch),):
        expected, given = [len(batch)], list(losses.shape)
        raise ValueError(f"the fitness must return losses {expected} for as many candidates, not {given}")
    bad = ~np.isfinite(losses)
    if bad.any():
        row = int(bad.argmax())
        items = ", ".join(map(str, batch[row, :8])) + (", ..." if batch.shape[1] > 8 else "")
        raise ValueError(
            f"the fitness gave {losses[row]} for evaluation {before + row + 1} (kept items {items}): "
            "losses must be finite"
        )
    return losses.tolist()
