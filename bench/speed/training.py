"""Time the training of a compressor: samples per second that are embedded (once) and trained on.

    python -m bench.speed.training -n 256 --batch 32,64
    python -m bench.speed.training -n 256 --batch 32 --features all

Labels of samples of the micro mixture are random, because speed does not depend on what is learned. Batch
sizes and locations of features take turns in every round; features on disk are written anew each time. On a
CPU, seconds are processor time, because the CPU may be shared.
"""

from __future__ import annotations

import json
import time
from itertools import product
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, get_args

import click

from bench.console import model_options, option, progress, show_table, whole_numbers
from bench.evaluation.opening import load_model
from bench.tasks.mixture import training_samples
from compress.files import replacing
from compress.labels import LabelConfig, LabelStore, label
from compress.models.loading import MLLM
from compress.samples import Sample
from compress.training.features import Where
from compress.training.run import TrainConfig, train

if TYPE_CHECKING:
    from compress.models.loading import Anyres


def speeds(
    mllm: MLLM, store: LabelStore, samples: list[Sample], config: TrainConfig, features: Where, folder: Path
) -> dict[str, float]:
    """Samples per second of each stage, including each epoch's validation on held-out samples."""
    clock = time.process_time if mllm.model.device.type == "cpu" else time.perf_counter
    times: dict[str, list[float]] = {}

    def report(stage: str, done: int, total: int) -> None:
        times.setdefault(stage, []).append(clock())

    started = clock()
    cache = folder / "cache" if features == "disk" else None
    found = train(mllm, store, samples, folder, config, features=features, cache=cache, progress=report)
    embedded, trained = times["embed"][-1], clock()
    return {
        "embed": len(samples) / (embedded - started),
        "train": found.samples * config.epochs / (trained - embedded),
    }


@click.command()
@option("-n", "count", default=256, type=click.IntRange(2), help="Number of samples.")
@option("--batch", "sizes", default="32,64", callback=whole_numbers, help="Batch sizes, separated by commas.")
@option(
    "--features",
    default="memory",
    type=click.Choice([*get_args(Where), "all"]),
    help="Where embeddings are kept during training.",
)
@option("--epochs", default=2, type=click.IntRange(1), help="Number of epochs.")
@option("--rounds", default=3, type=click.IntRange(1), help="Timed rounds.")
@option("--out", type=click.Path(dir_okay=False, path_type=Path), help="JSON file for all figures.")
@model_options
def main(
    count: int, sizes: list[int], features: str, epochs: int, rounds: int, out: Path | None,
    model: str, device: str, dtype: str, anyres: Anyres,
) -> None:  # fmt: skip
    """Time embedding and training; medians over the rounds."""
    mllm = load_model(model, device, dtype, anyres)
    samples = training_samples(count)
    wanted: list[Where] = [one for one in get_args(Where) if features in (one, "all")]
    found: dict[tuple[int, Where], list[dict[str, float]]] = {each: [] for each in product(sizes, wanted)}
    with TemporaryDirectory() as folder, progress("measure", "rounds") as report:
        store = label(mllm, samples, Path(folder) / "labels", LabelConfig("random"))
        for number in range(rounds):
            for size, where in found:
                config = TrainConfig(epochs=epochs, batch=size)
                place = Path(folder) / f"{size}-{where}-{number}"
                found[size, where].append(speeds(mllm, store, samples, config, where, place))
            report(number + 1, rounds)
    show_table(
        ["batch", "features", "embedded, samples/s", "trained, samples/s", "lowest", "highest"],
        [
            [
                str(size), where,
                f"{median(one['embed'] for one in each):.1f}" if where != "recompute" else "",
                f"{median(one['train'] for one in each):.1f}", f"{min(one['train'] for one in each):.1f}",
                f"{max(one['train'] for one in each):.1f}",
            ]
            for (size, where), each in found.items()
        ],
        f"{mllm.name}, {count} samples, {epochs} epochs, {device}",
    )  # fmt: skip
    if out:
        with replacing(out) as file:
            told = {f"{size} {where}": each for (size, where), each in found.items()}
            file.write_text(json.dumps({"samples_per_second": told}, indent=1))


if __name__ == "__main__":
    main()
