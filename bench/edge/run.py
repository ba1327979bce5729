"""The phone protocol on several runtimes, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.edge.benchmark import EdgePlan, Stage, Subject, benchmark
from bench.edge.chain import Positions
from bench.edge.precision import Precision
from bench.edge.protocol import Protocol
from bench.edge.runtimes.registry import RUNTIMES
from bench.edge.timing import Measurement
from compress.keep import Keep, count_of
from evosearch.registry import find


@dataclass(frozen=True)
class EdgeOptions:
    """An `EdgePlan` before the visual tokens are counted; None and () leave a setting to the protocol."""

    keeps: Sequence[Keep]
    chunk: int | None = None
    contexts: Sequence[int] = ()
    text: int | None = None  # other tokens of a prompt, at most; None: a ninth of the visual ones
    decoded: int = 2
    warmup: int = 3
    rounds: int = 20
    threads: int = 0
    positions: Positions | None = None
    precision: Precision | None = None
    clock: str = "wall"

    def plan(self, whole: int) -> EdgePlan:
        """What is measured of an image of `whole` visual tokens: all of them first, then the budgets."""
        budgets = [count_of(keep, whole) for keep in self.keeps]
        return EdgePlan(
            Protocol.scaled(whole, self.chunk, self.contexts), list(dict.fromkeys([whole, *budgets])),
            self.text or round(whole / 9), self.decoded, self.warmup, self.rounds, self.threads,
            self.positions, self.precision, self.clock,
        )  # fmt: skip


def run(
    options: EdgeOptions, runtimes: Sequence[str], load: Callable[[], Subject], stage: Stage,
    files: Path | None = None,
) -> list[Measurement]:  # fmt: skip
    """Time runtimes by their names; `load` makes the model anew for each of them.

    Exported files stay in `files` for the next call. ValueError for an unknown runtime, before the work.
    """
    found = [find(RUNTIMES, name, "runtime") for name in runtimes]
    return [benchmark(one, load, options.plan, files, stage) for one in found]
