"""`evocomp train`: a compressor from labels."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bench.commands.instructions import file_options, samples_of
from bench.commands.options import PROCESSES, SEED, Count, as_json, keys_of, options_of
from bench.console import OutFolder, model_options, of_model, option, progress, say, show_json, show_table
from bench.evaluation.opening import load_model

if TYPE_CHECKING:
    from compress.keep import Keep
    from compress.models.loading import Anyres
    from compress.training.config import TrainConfig
    from compress.training.curves import Epoch
    from compress.training.features import Where


@dataclass(frozen=True)
class TrainingJob:
    """The arguments that every process of a training run needs."""

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
class TrainingReport:
    history: Sequence[Epoch]
    samples: int
    keep: Keep  # tokens in a label
    first: bool  # whether this process prints


def chosen(values: dict[str, Any]) -> TrainConfig:
    """The settings of --preset, or the defaults."""
    from compress.training.config import TrainConfig, preset

    name = values.pop("preset")
    return preset(name) if name else TrainConfig()


@click.command()
@option(
    "--labels", required=True, multiple=True, type=click.Path(path_type=Path),
    help="Folder of a label store; may be repeated.",
)  # fmt: skip
@file_options
@option("--out", required=True, type=OutFolder(locks=False), help="Folder of the compressor.")
@option(
    "--preset", type=click.Choice(keys_of("compress.training.config:PRESETS")),
    help="Use the paper's hyper-parameters for this model, or ours for evocomp+; explicit options override "
    "them.",
)  # fmt: skip
@options_of(
    "compress.training.config:TrainConfig", "config",
    {
        "loss": "Training loss: NAME (evocomp list losses).",
        "lambda_cos": "Weight of the cosine loss. With GHM, its effect is smaller unless --normalise-by is "
        "bins.",
        "bins": "Number of unit regions of GHM.",
        "normalise_by": "Divide GHM by the number of non-empty regions, as its authors' code does, or by all "
        "bins, as the paper's equation does.",
        "target": "Training target of a token: whether it was kept (label), its score (score), or its lead "
        "over the best dropped token (lead).",
        "text": "Let the compressor read the question.",
        "words": "Add the match of a visual token with the words of the question to its logit (ours).",
        "norm": "Put an RMS norm before the classifier (ours).",
        "layers": "Layers of the compressor (the paper: 1).",
        "epochs": "Number of epochs.",
        "batch": "Samples per step, over all processes.",
        "lr": "Learning rate.",
        "warmup": "Share of the steps in which the learning rate rises.",
        "clip": "Largest norm of a gradient. Larger ones are scaled down to it. Default: none.",
        "seed": "Random seed.",
    },
    names={
        "lambda_cos": "--lambda", "text": "--text/--no-text", "words": "--words/--no-words",
        "norm": "--norm/--no-norm",
    }, types={"seed": SEED}, start=chosen,
)  # fmt: skip
@option(
    "--validate",
    help="Task that selects the epoch; none: a held-out tenth of the labels. Default: textvqa, or clips for "
    "micro-video; with --data and no --validate-data: none.",
)  # fmt: skip
@option(
    "--validate-data", metavar="DIR",
    help="Folder of benchmarks (docs/benchmarks.md) or hub:OWNER that --validate is read from, split val. "
    "Default: the miniature.",
)  # fmt: skip
@option("--validate-samples", default=120, type=Count(1), help="Questions of --validate.")
@option(
    "--processes", default=1, type=Count(1, PROCESSES),
    help="Number of processes here, one device each with --device cuda; accelerate launch works as well.",
)  # fmt: skip
@option(
    "--micro-batch", type=Count(1),
    help="Samples that a process computes at a time; smaller values need less memory. Default: all.",
)  # fmt: skip
@option(
    "--features", type=click.Choice(["memory", "disk", "recompute"]), default="memory",
    help="Where embeddings are kept during training; disk also serves later runs.",
)  # fmt: skip
@option(
    "--cache",
    type=OutFolder(locks=False),
    help="Folder of --features disk. Default: ~/.cache/evocomp/features.",
)
@option(
    "--checkpoint-every", default=200, type=Count(1),
    help="Steps between checkpoints; there is also one after every epoch.",
)  # fmt: skip
@model_options
@as_json
def train(
    config: TrainConfig, labels: tuple[Path, ...], data: Path | None, images: Path | None, out: Path,
    validate: str | None, validate_data: str | None, validate_samples: int, processes: int,
    micro_batch: int | None, features: Where, cache: Path | None, checkpoint_every: int, model: str,
    device: str, dtype: str, anyres: Anyres, machine: bool,
) -> None:  # fmt: skip
    """Train a compressor on label stores; --out receives the weights of the best epoch and the curves.

    Run the same command again to resume after an interruption, with any number of processes.

    \b
    Example:
      evocomp train --labels labels --out compressor --epochs 10
    """
    from compress.files import locked
    from compress.micro.worlds import VIDEO, world_of
    from compress.parallel.processes import first_here, together

    usual = "clips" if world_of(model) is VIDEO else "textvqa"
    order = TrainingJob(
        labels, data, images, out, config,
        validate or (usual if data is None or validate_data else "none"), validate_samples, validate_data,
        model, device, dtype, anyres,
        features, cache, micro_batch, checkpoint_every,
    )  # fmt: skip
    if first_here():
        with ExitStack() as held:
            held.enter_context(locked(out))
            if processes == 1:  # otherwise the first process holds the lock
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
    method = "evocomp+" if config.words else "evocomp"
    same = of_model(model, dtype, anyres)
    say(f"use it: evocomp eval --method {method} --compressor {out} --keep {report.keep}{same}")


def carry_out(order: TrainingJob) -> TrainingReport:
    """Train, as the only process or as one of several."""
    from bench.evaluation.validation import NOTE, validator
    from compress.keep import read_keep
    from compress.labels.store import read_labels
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
        check.refuse_other(order.out)
    notes: dict[str, Any] = {"labels": [dict(store.settings) for store in stores]}
    with progress("train", "steps") as report:
        result = run(
            mllm, merged, samples, order.out, order.config, validate=check,
            notes=notes | {NOTE: check.facts} if check else notes, features=order.features,
            cache=order.cache, micro_batch=order.micro_batch, checkpoint_every=order.checkpoint_every,
            progress=lambda stage, done, total: report(done, total), say=say,
        )  # fmt: skip
    return TrainingReport(result.history, result.samples, keep, Processes.here(mllm.model.device).first)


COMMANDS = {"train": train}
