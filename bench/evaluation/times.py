"""Times: the host's clocks, and the speed-up of one run over another."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

import numpy as np

ClockKind = Literal["wall", "processor"]
NOW: dict[ClockKind, Callable[[], float]] = {  # seconds on the host
    "wall": time.perf_counter,
    "processor": time.process_time,  # spent by this process, independent of other load
}
DRAWS = 2000
ENOUGH = {"p10": 10, "p90": 10, "p99": 100}  # repetitions that a percentile needs


@dataclass(frozen=True)
class Speedup:
    """The speed-up over the untouched model, with its 95 % bootstrap interval over rounds.

    A round times both, so that other load on the machine affects both: the speed-up is the median over rounds
    of the untouched model's time / the other's.
    """

    times: float
    low: float
    high: float

    @classmethod
    def of(cls, vanilla: Sequence[float], ours: Sequence[float], seed: int = 0) -> Speedup:
        """Compute the speed-up from times in the same unit, by round; one round gives three equal numbers."""
        ratios = np.asarray(vanilla) / np.asarray(ours)
        rng = np.random.default_rng(seed)
        drawn = np.median(ratios[rng.integers(0, len(ratios), (DRAWS, len(ratios)))], axis=1)
        low, high = np.percentile(drawn, [2.5, 97.5])
        return cls(float(np.median(ratios)), float(low), float(high))

    def __str__(self) -> str:
        return f"{self.times:.2f} [{self.low:.2f}, {self.high:.2f}]"


@dataclass(frozen=True)
class Quantiles:
    """The times of one stage, in seconds; a percentile is None if there are too few repetitions for it."""

    n: int
    median: float
    p10: float | None
    p90: float | None
    p99: float | None
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Quantiles:
        tails = {
            name: float(np.percentile(values, int(name[1:]))) if len(values) >= enough else None
            for name, enough in ENOUGH.items()
        }
        return cls(len(values), median(values), **tails, least=min(values), most=max(values))
