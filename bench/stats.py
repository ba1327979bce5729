"""Paired statistics: is the difference between two methods that answered the same samples more than chance?

Two views of the same pairs. *Intervals*: units (samples, or the samples that only count together) are drawn
again with replacement, the same draw for every method, and the scores are recomputed from the sums;
benchmarks are drawn independently and then averaged, as tables do. *Tests*: McNemar's exact test on the units
that two methods answered differently well, for averages the bootstrap's, with Holm's correction for the size
of the table.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from math import erfc, sqrt
from typing import TypeVar
from zlib import crc32

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bench.tasks import Task
from bench.tasks.base import Sums

DRAWS = 2000
LEVEL = 0.05  # of significance, over a whole table
CHUNK = 20_000_000  # numbers of a matrix of draws that are held at once

K = TypeVar("K", bound=Hashable)
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A difference with its 95 % bootstrap interval; as text, of percentage points."""

    difference: float
    low: float
    high: float

    @property
    def clear(self) -> bool:
        """Whether zero is outside."""
        return self.low > 0 or self.high < 0

    def __neg__(self) -> Interval:
        return Interval(-self.difference, -self.high, -self.low)

    def __str__(self) -> str:
        return f"{self.difference:+.1f} [{self.low:+.1f}, {self.high:+.1f}]"


@dataclass(frozen=True)
class Pairs:
    """Units on which one of two methods did better, and how likely so uneven a split is by chance.

    `p` is of McNemar's exact test, two-sided; `adjusted` the same after Holm's correction over a table.
    """

    better: int
    worse: int
    p: float
    adjusted: float

    @property
    def significant(self) -> bool:
        return self.adjusted < LEVEL


def resample(runs: Sequence[Sums], seed: int, draws: int = DRAWS) -> Floats:
    """Summed statistics of R runs over the same U units: [R, 1 + draws, k], as measured, then resampled.

    Each run is [U, k]. All runs see the same draws, and the draws hang on U and the seed alone. (Done by
    hand: scipy.stats.bootstrap resamples values, here sums are, which is a matrix product.)
    """
    units, width = runs[0].shape
    stacked = np.concatenate(runs, axis=1)  # [U, R * k]
    rng = np.random.default_rng(seed)
    chance, step = np.full(units, 1 / units), max(1, CHUNK // units)
    drawn = [stacked.sum(0, keepdims=True)]
    for start in range(0, draws, step):
        counts = rng.multinomial(units, chance, size=min(step, draws - start))
        drawn.append(counts.astype(float) @ stacked)
    return np.concatenate(drawn).reshape(1 + draws, len(runs), width).swapaxes(0, 1)


def shares(tasks: Sequence[Task], runs: Mapping[K, Mapping[str, Sums]], vanilla: K) -> dict[K, Floats]:
    """Average share of the `vanilla` run in percent over the tasks, by run: [1 + DRAWS], the measured first.

    `runs` map task names to statistics [U, k] over the same units in the same order. A share is 100 where
    both scores are zero, and nan where only vanilla's is.
    """
    columns: dict[K, list[Floats]] = {name: [] for name in runs}
    for task in tasks:
        units = {len(run[task.name]) for run in runs.values()}
        if len(units) > 1:
            raise ValueError(
                f"{task.name}: {' and '.join(map(str, sorted(units)))} units; "
                f"compare runs over the same samples"
            )
        drawn = resample([run[task.name] for run in runs.values()], crc32(task.name.encode()))
        values = dict(zip(runs, task.value(drawn), strict=True))
        for name, value in values.items():
            columns[name].append(share(value, values[vanilla]))
    return {name: np.mean(listed, axis=0) for name, listed in columns.items()}


def share(score: ArrayLike, vanilla: ArrayLike) -> Floats:
    """Percent of vanilla's score; of nothing, nothing is all of it and anything is nan."""
    mine, whole = np.asarray(score, float), np.asarray(vanilla, float)
    nothing = np.where(mine > 0, np.nan, 100.0)
    return np.where(whole > 0, 100 * mine / np.where(whole > 0, whole, 1), nothing)


def interval(ours: Floats, theirs: Floats) -> Interval:
    """Difference of two results of one call of `shares`."""
    gap = ours - theirs
    low, high = np.nanpercentile(gap[1:], [2.5, 97.5])
    return Interval(float(gap[0]), float(low), float(high))


def mean_interval(gaps: Floats) -> Interval:
    """Mean of paired differences [U] with its interval over the pairs."""
    from scipy.stats import bootstrap  # not at the top: half a second

    # In batches: a hundred thousand pairs would ask for gigabytes.
    drawn = bootstrap((gaps,), np.mean, n_resamples=DRAWS, batch=50, method="percentile", rng=0)
    low, high = map(float, drawn.confidence_interval)
    return Interval(float(gaps.mean()), low, high)


def chance(ours: Floats, theirs: Floats) -> float:
    """Two-sided p of a difference between two results of one call of `shares`, if there is none in truth.

    Normal, with the bootstrap's standard error: the share of draws beyond zero could not become as small as
    the correction for a large table needs it. Without any variation there is no evidence: 1.
    """
    gap = ours - theirs
    error = float(np.nanstd(gap[1:]))
    return erfc(abs(float(gap[0])) / error / sqrt(2)) if error > 1e-9 else 1.0


def mcnemar(ours: ArrayLike, theirs: ArrayLike) -> Pairs:
    """McNemar's exact test on the credits [U] that two methods got for the same units; not yet corrected.

    A pair is discordant when its two credits differ, by however little: for right and wrong answers that is
    McNemar's pair; for soft scores (VQA's 0.3, 0.6, 0.9 and 1) the test is the sign test, of which McNemar's
    is the special case, so no threshold has to be chosen. Under the null hypothesis a discordant pair falls
    to either side like a fair coin. Without discordant pairs p = 1.
    """
    from scipy.stats import binomtest  # not at the top: half a second

    gap = np.asarray(ours, float) - np.asarray(theirs, float)
    better, worse = int((gap > 0).sum()), int((gap < 0).sum())
    p = float(binomtest(better, better + worse).pvalue) if better + worse else 1.0
    return Pairs(better, worse, p, p)


def holm(values: Sequence[float]) -> list[float]:
    """Holm's step-down correction: p values after which the chance of even one false finding is bounded.

    The i-th smallest of m is multiplied by m - i + 1, and none becomes smaller than one before it.
    """
    p = np.asarray(values, float)
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(stepped, 1)
    return adjusted.tolist()
