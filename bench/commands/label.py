"""`evocomp label`: labels for a data set."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bench.commands.instructions import choice_options, file_options, open_instructions
from bench.commands.labels import cell
from bench.commands.options import PROCESSES, SEED, Amount, Count, as_json, keep_option
from bench.console import OutFolder, model_options, progress, say, show_json, show_table
from bench.evaluation.opening import load_model

if TYPE_CHECKING:
    from bench.data.instructions import Turns
    from compress.keep import Keep
    from compress.models.loading import Anyres
    from compress.parallel import Engine
    from compress.samples import Sample


@click.command()
@click.option("--out", required=True, type=OutFolder(locks=False), help="Folder of the label store.")
@click.option(
    "--samples",
    "count",
    type=Count(1),
    help="How many samples; 256, with --data all by default.",
)
@click.option("--start", type=Count(0), help="Number of the first sample, without --data; 0 by default.")
@file_options
@choice_options
@click.option("--kind", default="best", show_default=True, help="NAME[:option=value] (evocomp list kinds).")
@keep_option("Tokens in a label")
@click.option(
    "--grouper", default="vocabulary", show_default=True, help="NAME[:option=value] (evocomp list groupers)."
)
@click.option("--strategy", help="NAME[:option=value] (evocomp list strategies); the kind's own by default.")
@click.option("--evaluations", default=408, show_default=True, type=Count(1), help="Budget per sample.")
@click.option(
    "--positions", type=click.Choice(["original", "compact"]), default="original", show_default=True
)
@click.option("--seed", default=0, show_default=True, type=SEED)
@click.option(
    "--engine",
    type=click.Choice(["local", "ray"]),
    default="local",
    show_default=True,
    help="Processes of this machine, or actors of a Ray cluster; labels do not depend on it.",
)
@click.option(
    "--workers",
    default=1,
    show_default=True,
    type=Count(1, PROCESSES),
    help="Processes or actors; labels do not depend on it.",
)
@click.option("--address", help="Of a running Ray cluster: HOST:PORT or auto; one is started without it.")
@click.option("--gpus", type=Amount(0), help="Of each Ray worker; 1 by default with --device cuda, else 0.")
@click.option(
    "--shard", default="0/1", show_default=True, help="Only part i of n, as 0/4; parts may share --out."
)
@click.option("--again", is_flag=True, help="Try samples in quarantine again.")
@click.option(
    "--together",
    type=Count(1),
    help="Samples whose candidates share batches; 16 on a GPU, 1 on a CPU by default.",
)
@click.option(
    "--rows", type=Count(1),
    help="Decoder rows at a time (by the device); fewer when memory runs out.",
)  # fmt: skip
@model_options
@as_json
def label(
    out: Path, count: int | None, start: int | None, data: Path | None, images: Path | None,
    manifest: Path | None, sources: str | None, rules: Path | None, turns: Turns,
    kind: str, keep: Keep | None, grouper: str, strategy: str | None, evaluations: int, positions: str,
    seed: int, engine: str, workers: int, address: str | None, gpus: float | None, shard: str, again: bool,
    together: int | None, rows: int | None,
    model: str, device: str, dtype: str, anyres: Anyres, machine: bool,
) -> None:  # fmt: skip
    """Search which visual tokens to keep, for training samples; Parquet shards land in --out.

    Neither --workers nor --together changes a label. Rerun the same command to go on after an interruption;
    ask for more --samples to extend a store. Samples that fail three times are put in quarantine (evocomp
    labels DIR --quarantine) and not tried again.

    \b
    Example:
      evocomp label --out labels --samples 500 --kind group-attribution --workers 2
      evocomp label --data llava_v1_5_mix665k.json --images images --manifest mix665k.manifest \\
        --model llava-hf/llava-1.5-7b-hf --device cuda --dtype bfloat16 --samples 100000 \\
        --engine ray --address auto --workers 64 --out labels
    """
    from bench.report.stores import summarise
    from compress.files import alone
    from compress.labels import LabelConfig, Shard
    from compress.labels import label as run
    from compress.labels.store import SHARED

    config = LabelConfig(kind, keep, grouper, strategy, evaluations, positions, seed)
    part = Shard.of_text(shard)
    click.get_current_context().with_resource(alone(out, part.name, SHARED))
    place = open_engine(engine, address, gpus, device)
    if data is None:
        given = {"--images": images, "--manifest": manifest, "--sources": sources, "--rules": rules}
        for option, value in given.items():
            if value is not None:
                raise ValueError(f"{option} goes with --data, the file that it belongs to")
        from bench.tasks.mixture import training_samples

        samples: Sequence[Sample] = training_samples(count or 256, start or 0)
        about = None
    else:
        if start is not None:
            raise ValueError("--start is for the micro mixture: --samples of --data are drawn evenly")
        samples = open_instructions(data, images, manifest, sources, rules, turns, seed, count)
        about = samples.about
    loads = partial(load_model, there(model), device, dtype, anyres)
    with progress(f"label ({kind})") as report:
        store = run(
            loads, samples, out, config, engine=place, workers=workers, shard=part, data=about, again=again,
            together=together, rows=rows, progress=report,
        )  # fmt: skip
    if store.quarantine:
        say(f"{len(store.quarantine)} samples are in quarantine: evocomp labels quarantine {out}")
    summary = summarise(store)
    if machine:
        show_json(summary)
        return
    show_table(["label store", str(out)], [[name, cell(value)] for name, value in summary.items()])
    of = "" if data is None else f" --data {data} --images {images}"
    say(f"train on it: evocomp train --labels {out}{of} --out compressor")


def open_engine(name: str, address: str | None, gpus: float | None, device: str) -> Engine:
    """The engine that the options name."""
    from compress.parallel import Cluster, Local

    if name == "ray":
        return Cluster(address, float(device.startswith("cuda")) if gpus is None else gpus)
    if address is not None or gpus is not None:
        raise ValueError(f"{'--address' if address is not None else '--gpus'} goes with --engine ray")
    return Local()


def there(model: str) -> str:
    """The model's name for workers that start in another folder."""
    from compress.models.loading import MODELS

    return str(Path(model).absolute()) if model not in MODELS and Path(model).is_dir() else model


COMMANDS = {"label": label}
