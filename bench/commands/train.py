"""`evocomp train`: a compressor from labels."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bench.commands.instructions import file_options, samples_of
from bench.commands.options import PROCESSES, SEED, Count, as_json
from bench.console import OutFolder, model_options, progress, say, show_json, show_table
from bench.evaluation.opening import load_model

if TYPE_CHECKING:
    from compress.keep import Keep
    from compress.models.loading import Anyres
    from compress.training.config import TrainConfig
    from compress.training.curves import Epoch
    from compress.training.features import Where

PRESETS = ("llava-1.5-7b", "llava-next-7b", "qwen2.5-vl-7b")


@dataclass(frozen=True)
class Order:
    """What every process of a training run has to know."""

    labels: Sequence[Path]
    data: Path | None
    images: Path | None
    out: Path
    config: TrainConfig
    validate: str
    validate_samples: int
    validate_data: str | None
    model: str
    device: str
    dtype: str
    anyres: Anyres
    features: Where
    cache: Path | None
    micro_batch: int | None
    checkpoint_every: int


@dataclass(frozen=True)
class Report:
    history: Sequence[Epoch]
    samples: int
    keep: Keep  # tokens in a label
    first: bool  # whether this process talks to people


@click.command()
@click.option(
    "--labels",
    required=True,
    multiple=True,
    type=click.Path(path_type=Path),
    help="Label store; may be repeated.",
)
@file_options
@click.option("--out", required=True, type=OutFolder(locks=False), help="Folder of the compressor.")
@click.option(
    "--preset", type=click.Choice(PRESETS), help="The paper's settings for a model; what you also give wins."
)
@click.option("--loss", show_default="ghm+cos", help="NAME (evocomp list losses).")
@click.option(
    "--lambda", "lambda_cos", type=float, show_default="1.0",
    help="Weight of the cosine loss. With GHM it acts as a smaller one unless --normalise-by is bins.",
)  # fmt: skip
@click.option("--bins", type=Count(1), show_default="100", help="Unit regions of GHM.")
@click.option(
    "--normalise-by", type=click.Choice(["nonempty", "bins"]), show_default="nonempty",
    help="Regions that GHM is divided by: the occupied ones, as its authors' code does, or all, as the "
    "paper's equation does.",
)  # fmt: skip
@click.option("--target", type=click.Choice(["label", "lead", "score"]), show_default="label")
@click.option(
    "--text/--no-text", default=None, show_default="text", help="Let the compressor read the question."
)
@click.option("--epochs", type=Count(1), show_default="30")
@click.option("--batch", type=Count(1), show_default="64", help="Samples of a step, over all processes.")
@click.option("--lr", type=float, show_default="0.003")
@click.option(
    "--validate",
    show_default="textvqa; with --data and no --validate-data none",
    help="Task that chooses the epoch; none: a held-out tenth of the labels.",
)
@click.option(
    "--validate-data", metavar="DIR",
    help="Folder of benchmarks (docs/benchmarks.md) or hub:OWNER that --validate is read from, split val. "
    "Default: the miniature.",
)  # fmt: skip
@click.option("--validate-samples", default=120, show_default=True, type=Count(1))
@click.option("--seed", type=SEED, show_default="0")
@click.option(
    "--processes", default=1, show_default=True, type=Count(1, PROCESSES),
    help="On this machine, a device each with --device cuda; or use accelerate launch.",
)  # fmt: skip
@click.option(
    "--micro-batch", type=Count(1), show_default="all",
    help="Samples of a step that a process takes at a time; fewer need less memory.",
)  # fmt: skip
@click.option(
    "--features", type=click.Choice(["memory", "disk", "recompute"]), default="memory",
    show_default=True, help="Where embeddings stay while training; disk serves later runs too.",
)  # fmt: skip
@click.option(
    "--cache",
    type=OutFolder(locks=False),
    show_default="~/.cache/evocomp/features",
    help="Folder of --features disk.",
)
@click.option(
    "--checkpoint-every", default=200, show_default=True, type=Count(1),
    help="Steps; also after every epoch.",
)  # fmt: skip
@model_options
@as_json
def train(
    labels: tuple[Path, ...], data: Path | None, images: Path | None, out: Path, preset: str | None,
    validate: str | None, validate_data: str | None, validate_samples: int, processes: int,
    micro_batch: int | None, features: Where, cache: Path | None, checkpoint_every: int, model: str,
    device: str, dtype: str, anyres: Anyres, machine: bool, **settings: Any,
) -> None:  # fmt: skip
    """Train a compressor on label stores; weights of the best epoch, curves.csv and curves.png land in --out.

    Rerun the same command to go on after an interruption, with any number of processes and any way to keep
    features. Use it: evocomp eval --compressor OUT.

    \b
    Example:
      evocomp train --labels labels --out compressor --epochs 10
      evocomp train --labels labels --data llava_v1_5_mix665k.json --images images --out compressor \\
        --model llava-hf/llava-1.5-7b-hf --preset llava-1.5-7b --device cuda --dtype bfloat16
    """
    from compress.files import alone
    from compress.parallel.processes import first_here, together
    from compress.training.run import TrainConfig
    from compress.training.run import preset as settings_of

    given = {name: value for name, value in settings.items() if value is not None}
    order = Order(
        labels, data, images, out, replace(settings_of(preset) if preset else TrainConfig(), **given),
        validate or ("textvqa" if data is None or validate_data else "none"), validate_samples, validate_data,
        model, device, dtype, anyres,
        features, cache, micro_batch, checkpoint_every,
    )  # fmt: skip
    if first_here():
        with ExitStack() as held:
            held.enter_context(alone(out))
            if processes == 1:  # else the first of them holds it
                click.get_current_context().with_resource(held.pop_all())
    work = partial(carry_out, order)
    report = together(work, processes) if processes > 1 else work()
    if not report.first:
        return
    best = max(report.history, key=lambda epoch: epoch.score)
    if machine:
        show_json(
            {"folder": str(out), "best_epoch": best.epoch, "score": best.score, "samples": report.samples}
        )
        return
    show_table(
        ["epoch", "loss", "score", "seconds"],
        [[str(e.epoch), f"{e.loss:.4f}", f"{e.score:.4f}", f"{e.seconds:.1f}"] for e in report.history],
    )
    click.echo(f"best epoch {best.epoch}, score {best.score:.4f}, {report.samples} samples; saved in {out}")
    say(f"use it: evocomp eval --method evocomp --compressor {out} --keep {report.keep}")


def carry_out(order: Order) -> Report:
    """Train, or take one's share in it as one of several processes."""
    from bench.evaluation.validation import validator
    from compress.keep import read_keep
    from compress.labels import read_labels
    from compress.parallel.processes import Processes, own_device
    from compress.training.run import train as run

    stores = [read_labels(folder) for folder in order.labels]
    mllm = load_model(order.model, own_device(order.device), order.dtype, order.anyres)
    for store in stores:
        store.refuse_other(mllm.name, mllm.fingerprint(), mllm.visual_tokens)
    merged = [one for store in stores for one in store]
    samples = samples_of(stores, (one.id for one in merged), order.data, order.images)
    keep = read_keep(stores[0].setting("keep"))
    check = None
    if order.validate != "none":
        check = validator(mllm, order.validate, order.validate_samples, keep, order.validate_data)
    with progress("train", "steps") as report:
        result = run(
            mllm, merged, samples, order.out, order.config, validate=check,
            notes={"labels": [dict(store.settings) for store in stores]}, features=order.features,
            cache=order.cache, micro_batch=order.micro_batch, checkpoint_every=order.checkpoint_every,
            progress=lambda stage, done, total: report(done, total), say=say,
        )  # fmt: skip
    return Report(result.history, result.samples, keep, Processes.here(mllm.model.device).first)


COMMANDS = {"train": train}
