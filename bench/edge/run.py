"""The phone protocol on several runtimes, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from bench.edge.benchmark import EdgeOptions, Subject, benchmark
from bench.edge.runtimes.registry import RUNTIMES
from bench.edge.timing import Measurement
from compress.progress import Bar
from evosearch.registry import find


def run(
    options: EdgeOptions, runtimes: Sequence[str], load: Callable[[], Subject], stage: Bar,
    files: Path | None = None,
) -> list[Measurement]:  # fmt: skip
    """Time runtimes by their names; `load` loads the model again for each of them.

    Exported files stay in `files` for the next call. ValueError for an unknown runtime, before the work.
    """
    found = [find(RUNTIMES, name, "runtime") for name in runtimes]
    return [benchmark(one, load, options, files, stage) for one in found]
