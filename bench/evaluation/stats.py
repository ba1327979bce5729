"""Paired statistics: significance of the difference between two methods that answered the same samples.

Two analyses of the same pairs. *Intervals*: images are resampled with replacement, each with all questions
about it in all tasks, the same draw for every method, and the scores are recomputed from the sums. If rows
were trained with several seeds, the variance over the seeds is added. *Tests*: McNemar's exact test by image
on the units that two methods answered with different credit; for averages a test from the interval's own
distribution; with Holm's correction for the size of the table. Units are samples, or groups of samples that
only count together.
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
LEVEL = 0.05  # level of significance, over a whole table
CHUNK = 20_000_000  # elements of a matrix of draws held in memory at once

MARGIN = 2.0  # points of the average within which two methods count as equal

K = TypeVar("K", bound=Hashable)
Floats = NDArray[np.float64]
Images = Mapping[str, Sequence[str]]  # by task: [U] the image of each unit


@dataclass(frozen=True)
class Interval:
    """A difference with its 95 % interval; formatted as percentage points."""

    difference: float
    low: float
    high: float

    @property
    def clear(self) -> bool:
        """True if zero is outside the interval."""
        return self.low > 0 or self.high < 0

    def within(self, margin: float) -> bool:
        """Return whether the whole interval lies within `margin` of zero: equivalence."""
        return -margin < self.low and self.high < margin

    def __neg__(self) -> Interval:
        return Interval(0 - self.difference, 0 - self.high, 0 - self.low)  # zero stays +0.0

    def __str__(self) -> str:
        return f"{self.difference:+.1f} [{self.low:+.1f}, {self.high:+.1f}]"


@dataclass(frozen=True)
class Pairs:
    """The numbers of units on which one of two methods did better, with the p value of so uneven a split.

    `p` is from McNemar's exact test by image, two-sided; `adjusted` is the same after Holm's correction over
    a table.
    """

    better: int
    worse: int
    p: float
    adjusted: float

    @property
    def significant(self) -> bool:
        return self.adjusted < LEVEL


def resample(runs: Mapping[str, Sequence[Sums]], images: Images, draws: int = DRAWS) -> dict[str, Floats]:
    """Summed statistics of R runs by task: [R, 1 + draws, k], as measured, then resampled.

    Each run is [U, k]. Images are drawn with all their units in all tasks. Images that occur in the same
    tasks are drawn among themselves, so that every task keeps its number of images. All runs use the same
    draws, which depend only on the tasks and their images. (scipy.stats.bootstrap resamples values; here sums
    are resampled, which is a matrix product.)
    """
    asking: dict[str, list[str]] = {}
    for task in runs:
        for image in dict.fromkeys(images[task]):
            asking.setdefault(image, []).append(task)
    strata: dict[tuple[str, ...], dict[str, int]] = {}
    for image, tasks in asking.items():
        places = strata.setdefault(tuple(tasks), {})
        places[image] = len(places)
    found: dict[str, Floats] = {}
    for alike, places in strata.items():
        parts = [_by_image(np.concatenate(runs[task], axis=1), images[task], places) for task in alike]
        drawn = _drawn(np.concatenate(parts, axis=1), crc32(",".join(alike).encode()), draws)
        widths = np.cumsum([part.shape[1] for part in parts])[:-1]
        for task, sums in zip(alike, np.split(drawn, widths, axis=1), strict=True):
            shaped = sums.reshape(1 + draws, len(runs[task]), -1).swapaxes(0, 1)
            found[task] = found[task] + shaped if task in found else shaped
    return {task: found[task] for task in runs}


def _by_image(sums: Sums, images: Sequence[str], places: Mapping[str, int]) -> Floats:
    """Sum the units [U, w] by image [I, w], for the images in `places`."""
    at = np.array([places.get(image, -1) for image in images])
    total = np.zeros((len(places), sums.shape[1]))
    np.add.at(total, at[at >= 0], sums[at >= 0])
    return total


def _drawn(sums: Floats, seed: int, draws: int) -> Floats:
    """[1 + draws, w] Sum of the rows [I, w], then sums of I rows drawn with replacement."""
    count = len(sums)
    rng = np.random.default_rng(seed)
    chance, step = np.full(count, 1 / count), max(1, CHUNK // count)
    drawn = [sums.sum(0, keepdims=True)]
    for start in range(0, draws, step):
        times = rng.multinomial(count, chance, size=min(step, draws - start))
        drawn.append(times.astype(float) @ sums)
    return np.concatenate(drawn)


def shares(
    tasks: Sequence[Task],
    runs: Mapping[K, Mapping[str, Sums]],
    vanilla: K,
    images: Images,
    draws: int = DRAWS,
) -> dict[K, Floats]:
    """Mean share of the `vanilla` run over tasks, in percent, by run: [1 + draws], the measured one first.

    `runs` map task names to statistics [U, k] over the same units in the same order, with their `images`. A
    share is 100 if both scores are zero, and nan if only vanilla's is.
    """
    for task in tasks:
        units = {len(images[task.name]), *(len(run[task.name]) for run in runs.values())}
        if len(units) > 1:
            raise ValueError(
                f"{task.name}: {' and '.join(map(str, sorted(units)))} units; "
                f"compare runs over the same samples"
            )
    drawn = resample({task.name: [run[task.name] for run in runs.values()] for task in tasks}, images, draws)
    columns: dict[K, list[Floats]] = {name: [] for name in runs}
    for task in tasks:
        values = dict(zip(runs, task.value(drawn[task.name]), strict=True))
        for name, value in values.items():
            columns[name].append(share(value, values[vanilla]))
    return {name: np.mean(listed, axis=0) for name, listed in columns.items()}


def share(score: ArrayLike, vanilla: ArrayLike) -> Floats:
    """Percent of vanilla's score; if that is zero, 100 for a zero score and nan for any other."""
    mine, whole = np.asarray(score, float), np.asarray(vanilla, float)
    nothing = np.where(mine > 0, np.nan, 100.0)
    return np.where(whole > 0, 100 * mine / np.where(whole > 0, whole, 1), nothing)


def contrast(ours: Sequence[Floats], theirs: Sequence[Floats]) -> tuple[Interval, float]:
    """The difference of the means of two rows, with its interval and its two-sided p under no difference.

    A row is a list of results of `shares`, one for each seed. With one seed each, the interval consists of
    percentiles of the draws, and p is normal with their standard error: the share of draws beyond zero could
    not become as small as the correction for a large table needs. Both then do not cover other seeds.

    With several seeds, the variance of a mean over its seeds is added to the variance of the draws, and
    interval and p are Student's with Satterthwaite's degrees of freedom: seeds and images are crossed random
    effects. (Resampling few seeds would give too narrow intervals.) Without any variation there is no
    evidence: p = 1.
    """
    gap = np.mean(ours, axis=0) - np.mean(theirs, axis=0)
    rows = [np.array([one[0] for one in row]) for row in (ours, theirs) if len(row) > 1]
    seeds = [(row.var(ddof=1) / len(row), len(row) - 1) for row in rows]
    variance = float(np.nanvar(gap[1:])) + sum(of for of, _ in seeds)
    difference, error = float(gap[0]), sqrt(variance)
    if not any(of > 0 for of, _ in seeds):
        low, high = np.nanpercentile(gap[1:], [2.5, 97.5])
        p = erfc(abs(difference) / error / sqrt(2)) if error > 1e-9 else 1.0
        return Interval(difference, float(low), float(high)), p
    from scipy.stats import t  # imported here because it takes half a second

    freedom = variance**2 / sum(of**2 / count for of, count in seeds)
    half = float(t.ppf(1 - LEVEL / 2, freedom)) * error
    p = 2 * float(t.sf(abs(difference) / error, freedom))
    return Interval(difference, difference - half, difference + half), p


def mean_interval(gaps: Floats, images: Sequence[str] | None = None) -> Interval:
    """The mean of paired differences [U] with its interval over the pairs' images. Default: one each."""
    pairs = np.stack([gaps, np.ones(len(gaps))], 1)
    asked = {"pairs": images if images is not None else [str(place) for place in range(len(gaps))]}
    sums = resample({"pairs": [pairs]}, asked)["pairs"][0]
    means = sums[:, 0] / sums[:, 1]
    low, high = np.percentile(means[1:], [2.5, 97.5])
    return Interval(float(gaps.mean()), float(low), float(high))


def mcnemar(ours: ArrayLike, theirs: ArrayLike, images: Sequence[str]) -> Pairs:
    """McNemar's exact test on the credits [U] of two methods for the same units; not yet corrected.

    A pair is discordant if its two credits differ by any amount: for right and wrong answers this is
    McNemar's pair; for soft scores (VQA's 0.3, 0.6, 0.9 and 1) the test is the sign test, which includes
    McNemar's as a special case, so no threshold has to be chosen. Under the null hypothesis the methods are
    exchangeable on every image, so all discordant pairs of an image change sides together with probability
    one half; with one unit per image this is McNemar's test. Without discordant pairs p = 1.
    """
    signs = np.sign(np.asarray(ours, float) - np.asarray(theirs, float))
    better, worse = int((signs > 0).sum()), int((signs < 0).sum())
    _, group = np.unique(np.asarray(images, str), return_inverse=True)
    p = _flipped(np.bincount(group, weights=signs).astype(int))
    return Pairs(better, worse, p, p)


def _flipped(net: NDArray[np.int64]) -> float:
    """Probability that the sum of `net` [I] with random signs is at least as far from zero as observed."""
    from scipy.stats import binom  # imported here because it takes half a second

    total, distribution = abs(int(net.sum())), np.ones(1)
    sizes, counts = np.unique(np.abs(net[net != 0]), return_counts=True)
    for size, count in zip(sizes.tolist(), counts.tolist(), strict=True):
        steps = np.zeros(2 * size * count + 1)  # their sum runs from -size * count, by 2 * size
        steps[:: 2 * size] = binom.pmf(np.arange(count + 1), count, 0.5)
        distribution = np.convolve(distribution, steps)
    beyond = distribution[len(distribution) // 2 + total :].sum()
    return min(1.0, 2 * float(beyond)) if total else 1.0


def holm(values: Sequence[float]) -> list[float]:
    """Holm's step-down correction: adjusted p values that bound the probability of any false finding.

    The i-th smallest of m is multiplied by m - i + 1, and no value becomes smaller than the one before it.
    """
    p = np.asarray(values, float)
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(stepped, 1)
    return adjusted.tolist()
