"""`evocomp train`: a compressor from labels."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

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

if TYPE_CHECKING:
    from compress.models import Anyres


@click.command()
@click.option(
    "--labels",
    required=True,
    multiple=True,
    type=click.Path(path_type=Path),
    help="Label store; may be repeated.",
)
@click.option("--out", required=True, type=OutFolder(), help="Folder of the compressor.")
@click.option("--loss", default="ghm+cos", show_default=True, help="NAME (evocomp losses).")
@click.option("--lambda", "lambda_cos", default=1.0, show_default=True, help="Weight of the cosine loss.")
@click.option("--bins", default=100, show_default=True, type=click.IntRange(1), help="Unit regions of GHM.")
@click.option("--target", type=click.Choice(["label", "lead", "score"]), default="label", show_default=True)
@click.option(
    "--text/--no-text", default=True, show_default=True, help="Let the compressor read the question."
)
@click.option("--epochs", default=30, show_default=True, type=click.IntRange(1))
@click.option("--batch", default=64, show_default=True, type=click.IntRange(1))
@click.option("--lr", default=0.003, show_default=True)
@click.option(
    "--validate", default="textvqa", show_default=True, help="Task that chooses the epoch, or none."
)
@click.option("--validate-samples", default=120, show_default=True, type=click.IntRange(1))
@click.option("--seed", default=0, show_default=True)
@model_options
@as_json
def train(
    labels: tuple[Path, ...], out: Path, loss: str, lambda_cos: float, bins: int,
    target: Literal["label", "lead", "score"], text: bool, epochs: int, batch: int, lr: float,
    validate: str, validate_samples: int, seed: int, model: str, device: str, dtype: str, anyres: Anyres,
    machine: bool,
) -> None:  # fmt: skip
    """Train a compressor on label stores; weights of the best epoch, curves.csv and curves.png land in --out.

    Rerun the same command to go on after an interruption. Use it: evocomp eval --compressor OUT.

    \b
    Example:
      evocomp train --labels labels --out compressor --epochs 10
    """
    from compress.labels import read_labels
    from compress.training import TrainConfig
    from compress.training import train as run

    stores = [read_labels(folder) for folder in labels]
    config = TrainConfig(
        loss=loss, lambda_cos=lambda_cos, bins=bins, target=target, text=text,
        epochs=epochs, batch=batch, lr=lr, seed=seed,
    )  # fmt: skip
    mllm = load_model(model, device, dtype, anyres)
    from bench.tasks.mixture import labelled_samples
    from bench.validation import validator

    merged = [one for store in stores for one in store]
    keep = int(stores[0].settings["keep"])
    check = None if validate == "none" else validator(mllm, validate, validate_samples, keep)
    with progress("train", "steps") as report:
        result = run(
            mllm, merged, labelled_samples(one.id for one in merged), out, config, validate=check,
            notes={"labels": [dict(store.settings) for store in stores]},
            progress=lambda stage, done, total: report(done, total),
        )  # fmt: skip
    best = result.best
    if machine:
        show_json(
            {"folder": str(out), "best_epoch": best.epoch, "score": best.score, "samples": result.samples}
        )
        return
    show_table(
        ["epoch", "loss", "score", "seconds"],
        [[str(e.epoch), f"{e.loss:.4f}", f"{e.score:.4f}", f"{e.seconds:.1f}"] for e in result.history],
    )
    click.echo(f"best epoch {best.epoch}, score {best.score:.4f}, {result.samples} samples; saved in {out}")
    say(f"use it: evocomp eval --method evocomp --compressor {out} --keep {keep}")


COMMANDS = {"train": train}
