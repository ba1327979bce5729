"""Measure the scaling of labelling: samples per second with 1, 2, 4 and 8 workers that wait a fixed time.

    python -m bench.speed.scale --workers 1,2,4,8 --seconds 0.16

A worker is an actor of a Ray cluster on this machine. It waits instead of computing, so there can be more
workers than cores; everything else is real: samples, retries, results, shards on disk. Efficiency is the rate
divided by workers / seconds. The driver's cost is its processor time per sample. The clock starts when all
workers are ready. Linux only, because Ray's own processes are found in /proc.
"""

from __future__ import annotations

import os
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, ClassVar

import click
from PIL import Image

from bench.console import option, progress, show_table, whole_numbers
from bench.evaluation.history import put_json
from compress.labels import Label, gather
from compress.parallel import Cluster, Engine, Local, Work, WorkerPool
from compress.samples import Catalogue, Sample

VISUAL, KEEP = 576, 64  # of LLaVA-1.5: they determine the size of a result
PICTURE = Image.new("RGB", (1, 1))


class Wait:
    """A labeller without a model: waits, then returns a label of usual size, a function of the sample."""

    forks = True

    def __init__(self, seconds: float):
        self.seconds = seconds
        self.machine = f"process {os.getpid()}"  # so that workers can be counted

    @property
    def about(self) -> dict[str, Any]:
        return {"kind": "wait", "keep": KEEP, "visual_tokens": VISUAL}

    def __call__(self, sample: Sample) -> Label:
        time.sleep(self.seconds)
        rng = Random(sample.id)
        kept = tuple(sorted(rng.sample(range(VISUAL), KEEP)))
        return Label(sample.id, kept, rng.random(), rng.random(), rng.random(), 408, 1, self.seconds)


@dataclass(frozen=True)
class Numbered(Catalogue):
    """A catalogue of `size` samples, generated on request."""

    size: int

    def __len__(self) -> int:
        return self.size

    def key(self, place: int) -> str:
        return f"{place:07d}"

    def make(self, place: int) -> Sample:
        return Sample(self.key(place), PICTURE, "what color is the star ?", ("green",))


@dataclass(frozen=True)
class Complete:
    """The cluster, once all workers have started."""

    engine: Cluster
    name: ClassVar[str] = "ray"
    elsewhere: ClassVar[bool] = True

    @contextmanager
    def open(self, make: Callable[[], Work], workers: int) -> Iterator[WorkerPool]:
        with self.engine.open(make, workers) as crew:
            while len(crew.machines) < workers:
                for _ in crew.each(Numbered(workers)):
                    pass
            yield crew


@dataclass(frozen=True)
class ScalingResult:
    workers: int
    samples: int
    rate: float  # samples per second
    efficiency: float  # of workers / seconds
    driver_ms: float  # processor time per sample
    cluster_ms: float  # of Ray's own processes, without the workers
    first_mib: float  # peak memory of the driver after a tenth of the samples
    last_mib: float  # and at the end


def measure(engine: Engine, workers: int, seconds: float, count: int, folder: Path) -> ScalingResult:
    """Measure one campaign of `count` samples."""
    marks: dict[int, tuple[float, float, float, float]] = {}
    early = count // 10

    def look(done: int, total: int) -> None:
        if done in (0, early, count):
            memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            marks[done] = (time.perf_counter(), time.process_time(), servers(), memory)

    gather(partial(Wait, seconds), Numbered(count), folder, workers=workers, engine=engine, progress=look)
    begin, end = marks[0], marks[count]
    rate = count / (end[0] - begin[0])
    return ScalingResult(
        workers, count, rate, rate * seconds / workers, 1000 * (end[1] - begin[1]) / count,
        1000 * (end[2] - begin[2]) / count, marks[early][3], end[3],
    )  # fmt: skip


def servers() -> float:
    """Processor seconds so far of Ray's own processes."""
    spent = 0.0
    for told in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, _, rest = told.read_text().partition("(")[2].rpartition(")")
        except OSError:  # it has ended
            continue
        fields = rest.split()  # from the third: state, parent, ...
        if name in ("raylet", "gcs_server") and int(fields[1]) == os.getpid():
            spent += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return spent


def runs(sizes: list[int], seconds: float, count: int, engine: str) -> Iterator[ScalingResult]:
    for workers in sizes:
        with tempfile.TemporaryDirectory() as folder:
            chosen = Complete(Cluster()) if engine == "ray" else Local()
            yield measure(chosen, workers, seconds, count * workers, Path(folder) / "labels")


@click.command()
@option(
    "--workers",
    "sizes",
    default="1,2,4,8",
    callback=whole_numbers,
    help="Numbers of workers, separated by commas.",
)
@option(
    "--seconds",
    default=0.16,
    type=click.FloatRange(0, min_open=True),
    help="Seconds that a worker waits per sample.",
)
@option("-n", "count", default=200, type=click.IntRange(20), help="Samples per worker.")
@option(
    "--engine",
    type=click.Choice(["ray", "local"]),
    default="ray",
    help="Where workers run: actors of a Ray cluster, or processes of this machine (local).",
)
@option("--out", type=click.Path(dir_okay=False, path_type=Path), help="JSON file for all figures.")
def main(sizes: list[int], seconds: float, count: int, engine: str, out: Path | None) -> None:
    """Measure the rate of labelling at several numbers of workers."""
    found = []
    with progress("measure", "campaigns") as report:
        for one in runs(sizes, seconds, count, engine):
            found.append(one)
            report(len(found), len(sizes))
    show_table(
        ["workers", "samples", "samples/s", "efficiency, %", "driver, ms", "cluster, ms", "driver, MiB"],
        [
            [
                str(one.workers), str(one.samples), f"{one.rate:.1f}", f"{100 * one.efficiency:.1f}",
                f"{one.driver_ms:.2f}", f"{one.cluster_ms:.2f}", f"{one.first_mib:.0f} to {one.last_mib:.0f}",
            ]
            for one in found
        ],
        f"engine {engine}, {seconds:g} s of waiting per sample",
    )  # fmt: skip
    if out:
        put_json(out, [asdict(one) for one in found])


if __name__ == "__main__":
    main()
