"""`evocomp label`: labels for a data set."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from bench.commands.common import (
    OutFolder,
    as_json,
    load_model,
    model_options,
    progress,
    say,
    show_json,
    show_table,
)
from bench.commands.labels import cell, summarise

if TYPE_CHECKING:
    from compress.models import Anyres


@click.command()
@click.option("--out", required=True, type=OutFolder(), help="Folder of the label store.")
@click.option(
    "--samples", "count", default=256, show_default=True, type=click.IntRange(1), help="How many samples."
)
@click.option(
    "--start", default=0, show_default=True, type=click.IntRange(0), help="Number of the first sample."
)
@click.option("--kind", default="best", show_default=True, help="NAME[:option=value] (evocomp kinds).")
@click.option("--keep", type=int, help="Tokens in a label; a ninth by default.")
@click.option(
    "--grouper", default="vocabulary", show_default=True, help="NAME[:option=value] (evocomp groupers)."
)
@click.option("--strategy", help="NAME[:option=value] (evocomp strategies); the kind's own by default.")
@click.option(
    "--evaluations", default=408, show_default=True, type=click.IntRange(1), help="Budget per sample."
)
@click.option(
    "--positions", type=click.Choice(["original", "compact"]), default="original", show_default=True
)
@click.option("--seed", default=0, show_default=True)
@click.option(
    "--workers",
    default=1,
    show_default=True,
    type=click.IntRange(1),
    help="Processes; labels do not depend on it.",
)
@click.option(
    "--together",
    type=click.IntRange(1),
    help="Samples whose candidates share batches; 16 on a GPU, 1 on a CPU by default.",
)
@click.option(
    "--rows", type=click.IntRange(1),
    help="Decoder rows at a time (by the device); fewer when memory runs out.",
)  # fmt: skip
@model_options
@as_json
def label(
    out: Path, count: int, start: int, kind: str, keep: int | None, grouper: str, strategy: str | None,
    evaluations: int, positions: str, seed: int, workers: int, together: int | None, rows: int | None,
    model: str, device: str, dtype: str, anyres: Anyres, machine: bool,
) -> None:  # fmt: skip
    """Search which visual tokens to keep, for samples of the training mixture; Parquet shards land in --out.

    Neither --workers nor --together changes a label. Rerun the same command to go on after an interruption;
    ask for more --samples to extend a store.

    \b
    Example:
      evocomp label --out labels --samples 500 --kind group-attribution --workers 2
    """
    from compress.labels import LabelConfig
    from compress.labels import label as run

    config = LabelConfig(kind, keep, grouper, strategy, evaluations, positions, seed)
    mllm = load_model(model, device, dtype, anyres)
    from bench.tasks.mixture import training_samples

    samples = training_samples(count, start)
    with progress(f"label ({kind})") as report:
        store = run(
            mllm, samples, out, config, workers=workers, together=together, rows=rows, progress=report
        )
    summary = summarise(store)
    if machine:
        show_json(summary)
        return
    show_table(["label store", str(out)], [[name, cell(value)] for name, value in summary.items()])
    say(f"train on it: evocomp train --labels {out} --out compressor")


COMMANDS = {"label": label}
