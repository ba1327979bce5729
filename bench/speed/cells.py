"""Measure the scaling of comparisons: cells by 1, 2, 4 and 8 workers that wait a fixed time per part.

    python -m bench.speed.cells --workers 1,2,4,8 --seconds 1

A worker is a process of this machine, as for --devices, or an actor of a Ray cluster. It waits instead of
answering, so there can be more workers than cores; everything else is real: parts of 256 answers, results,
retries, scores, and a Parquet file per cell. Efficiency is the rate divided by workers / seconds. The
driver's cost is its processor time, including scores and files. The clock starts when all workers are ready.
Linux only, because Ray's own processes are found in /proc.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, ClassVar

import click

from baselines import Grid
from bench.console import option, progress, show_table, whole_numbers
from bench.evaluation.cellwork import PART, CellPart
from bench.evaluation.compare import Entry, fill, prepare
from bench.evaluation.evaluate import AnsweredPart
from bench.evaluation.history import put_json
from bench.evaluation.protocol import of_model
from bench.speed.scale import servers
from bench.tasks import TASKS
from compress.attach.prefill import Record
from compress.models.loading import MLLM, load
from compress.parallel import Cluster, Devices, Engine, Work, WorkerPool

KEEP, PARTS = 64, 2  # tokens per answer record; parts per cell


class Waits:
    """A worker without a model: it waits, then returns records of the usual size."""

    forks = True

    def __init__(self, about: Mapping[str, Any], seconds: float, tokens: int, layers: int):
        self.about, self.seconds, self.tokens, self.layers = about, seconds, tokens, layers
        self.keep = min(KEEP, tokens // 2)
        self.machine = f"process {os.getpid()}"  # so that workers can be counted

    def __call__(self, part: CellPart | None) -> AnsweredPart | None:
        if part is None:  # call while workers start
            return None
        time.sleep(self.seconds)
        rng = Random(repr(part))
        said, records = [], []
        for _ in range(part.stop - part.start):
            kept = sorted(rng.sample(range(self.tokens), self.keep))
            counts, whole = [self.keep] * self.layers, [False] * self.keep
            said.append(rng.choice(("yes", "no", "red", "two")))
            records.append(Record(self.tokens, 40, counts, counts, {0: kept}, {0: whole}, 0.0))
        return AnsweredPart(said, records, 64, self.seconds)


def _made(*given: Any, **place: str) -> Waits:
    return Waits(*given)


@dataclass(frozen=True)
class Stubs:
    """An engine whose workers are all ready and wait instead of working."""

    engine: Engine
    about: Mapping[str, Any]
    seconds: float
    tokens: int
    layers: int
    name: ClassVar[str] = "stubs"
    elsewhere: ClassVar[bool] = False

    @contextmanager
    def open(self, make: Callable[..., Work], workers: int) -> Iterator[WorkerPool]:
        stub = partial(_made, self.about, self.seconds, self.tokens, self.layers)
        with self.engine.open(stub, workers) as crew:
            while self.engine.elsewhere and len(crew.machines) < workers:
                for _ in crew.each([None] * workers):
                    pass
            yield crew


@dataclass(frozen=True)
class CellScaling:
    engine: str
    workers: int
    seconds: float  # per part
    parts: int
    cells: int
    rate: float  # parts per second
    efficiency: float  # of workers / seconds
    driver_ms: float  # processor time per part
    cluster_ms: float  # of Ray's own processes per part, without the workers


def measure(
    mllm: MLLM, engine: Engine, workers: int, seconds: float, parts: int, folder: Path
) -> CellScaling:  # fmt: skip
    """Measure one comparison of `parts` parts."""
    task, cells = TASKS["gqa"](), parts // PARTS
    data = {task: task.micro(PARTS * PART)}
    entries = [Entry(f"method {number}", Grid()) for number in range(cells - 1)]
    prepared = prepare(mllm, entries, [KEEP], data, batch=64, folder=folder)
    marks: dict[int, tuple[float, float, float]] = {}

    def look(done: int, total: int) -> None:
        if done in (0, cells):
            marks[done] = (time.perf_counter(), time.process_time(), servers())

    stubs = Stubs(engine, of_model(mllm), seconds, mllm.visual_tokens, mllm.layers)
    fill(mllm, prepared, workers=workers, engine=stubs, progress=look)
    begin, end = marks[0], marks[cells]
    parts = cells * PARTS
    rate = parts / (end[0] - begin[0])
    return CellScaling(
        engine.name, workers, seconds, parts, cells, rate, rate * seconds / workers,
        1000 * (end[1] - begin[1]) / parts, 1000 * (end[2] - begin[2]) / parts,
    )  # fmt: skip


@click.command()
@option(
    "--workers", "sizes", default="1,2,4,8", callback=whole_numbers,
    help="Numbers of workers, separated by commas.",
)  # fmt: skip
@option(
    "--seconds", default=1.0, type=click.FloatRange(0, min_open=True),
    help="Seconds that a worker waits per part.",
)  # fmt: skip
@option("-n", "count", default=20, type=click.IntRange(4), help="Parts per worker, two to a cell.")
@option(
    "--engine", "name", type=click.Choice(["devices", "ray"]), default="devices",
    help="Where workers run: processes of this machine (devices), or actors of a Ray cluster.",
)  # fmt: skip
@option("--out", type=click.Path(dir_okay=False, path_type=Path), help="JSON file for all figures.")
def main(sizes: list[int], seconds: float, count: int, name: str, out: Path | None) -> None:
    """Measure the rate of comparing at several numbers of workers."""
    mllm, found = load("micro"), []
    with progress("measure", "comparisons") as report:
        for workers in sizes:
            engine: Engine = Cluster() if name == "ray" else Devices(("cpu",) * workers)
            with tempfile.TemporaryDirectory() as folder:
                found.append(measure(mllm, engine, workers, seconds, count * workers, Path(folder)))
            report(len(found), len(sizes))
    show_table(
        ["workers", "parts", "parts/s", "efficiency, %", "driver, ms", "cluster, ms"],
        [
            [
                str(one.workers), str(one.parts), f"{one.rate:.2f}", f"{100 * one.efficiency:.1f}",
                f"{one.driver_ms:.1f}", f"{one.cluster_ms:.1f}",
            ]
            for one in found
        ],
        f"engine {name}, {seconds:g} s of waiting per part of {PART} answers",
    )  # fmt: skip
    if out:
        put_json(out, [asdict(one) for one in found])


if __name__ == "__main__":
    main()
