"""`evocomp demo`: search, training and comparison in one command."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bench.commands.options import PROCESSES, Count
from bench.console import OutFolder, model_options, option, progress, say
from bench.evaluation.opening import load_model
from bench.report.terminal import show_comparison

if TYPE_CHECKING:
    from compress.models.loading import Anyres


@click.command()
@option(
    "--out", default="demo", type=OutFolder(), help="Folder for results, tables, pictures and the report."
)
@option("--fresh", default=32, type=Count(2), help="Samples to label now, per kind of label.")
@option("-n", "count", default=100, type=Count(4), help="Questions per task.")
@option(
    "--workers",
    default=min(2, os.cpu_count() or 1),
    type=Count(1, PROCESSES),
    help="Number of processes.",
)
@model_options
@click.pass_obj
def demo(
    command: str, out: Path, fresh: int, count: int, workers: int, model: str, device: str, dtype: str,
    anyres: Anyres,
) -> None:  # fmt: skip
    """Search masks, train a compressor on them, and compare it with other methods.

    The demo writes results.json, table.md, pictures and a self-contained report.html to --out.

    \b
    Example:
      evocomp demo --out demo
    """
    started = time.perf_counter()
    mllm = load_model(model, device, dtype, anyres)
    from bench.demo import run
    from bench.evaluation.origin import Origin
    from bench.report.outputs import draw_search, write
    from bench.tasks.mixture import training_samples
    from compress.labels.single import search_sample
    from compress.micro.worlds import world_of

    out.mkdir(parents=True, exist_ok=True)
    made = run(mllm, out, fresh=fresh, n=count, workers=workers, bar=progress)
    (sample,) = training_samples(1, world=world_of(mllm.name))
    found = search_sample(mllm, sample.visual_at(mllm.image_side), sample.question, sample.answers[0])
    draw_search(mllm, sample, found, out / "pictures" / "search")
    plots = {f"training on {kind}": str(out / "compressors" / kind / "curves.png") for kind in made.trained}
    facts = {
        "labelled now": ", ".join(f"{len(store)} {kind}" for kind, store in made.live.items()),
        "labels shipped with the package": ", ".join(f"{n} {kind}" for kind, n in made.reused.items()),
    }
    seconds = {**made.seconds, "whole demo": time.perf_counter() - started}
    write(made.comparison, mllm, out, Origin("evocomp demo", facts, [command], plots), seconds)
    show_comparison(made.comparison)
    for name, value in {**facts, **{name: f"{taken:.0f} s" for name, taken in seconds.items()}}.items():
        say(f"{name}: {value}")
    click.echo(f"{out}/results.json  {out}/table.md  {out}/report.html  pictures in {out}/pictures")


COMMANDS = {"demo": demo}
