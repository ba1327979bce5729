"""Paired intervals: what is the difference between two methods that answered the same samples?

Units (samples, or the samples that only count together) are resampled with replacement, the same draw for
both methods, and the scores are recomputed from the sums. Benchmarks are resampled independently and then
averaged, as tables do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.tasks import Task
from bench.tasks.base import Sums

DRAWS = 2000


@dataclass(frozen=True)
class Interval:
    """A difference with its 95 % bootstrap interval; as text, of percentage points."""

    difference: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.difference:+.1f} [{self.low:+.1f}, {self.high:+.1f}]"


def weights(units: int, seed: int, draws: int = DRAWS) -> NDArray[np.float64]:
    """[draws, units] how often each unit is drawn."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(units, np.full(units, 1 / units), size=draws).astype(float)


def shares(
    tasks: Sequence[Task], method: Mapping[str, Sums], vanilla: Mapping[str, Sums], seed: int = 0
) -> NDArray[np.float64]:
    """Average share of vanilla in percent over the tasks, [1 + DRAWS]: the measured one, then resampled.

    `method` and `vanilla` map task names to statistics [U, k] over the same units in the same order. Two
    methods compared with the same seed are resampled alike.
    """
    columns = []
    for number, task in enumerate(tasks):
        mine, whole = method[task.name], vanilla[task.name]
        if len(mine) != len(whole):
            raise ValueError(
                f"{task.name}: {len(mine)} units against {len(whole)}; compare runs over the same samples"
            )
        drawn = np.concatenate([np.ones((1, len(mine))), weights(len(mine), seed * 1000 + number)])
        columns.append(100 * task.value(drawn @ mine) / np.maximum(task.value(drawn @ whole), 1e-9))
    return np.mean(columns, axis=0)


def interval(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> Interval:
    """Difference of two results of `shares` made with the same seed."""
    gap = ours - theirs
    low, high = np.percentile(gap[1:], [2.5, 97.5])
    return Interval(float(gap[0]), float(low), float(high))
