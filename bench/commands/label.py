"""`evocomp label`: labels for a data set."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bench.commands.instructions import choice_options, file_options, open_instructions
from bench.commands.labels import cell
from bench.commands.options import SEED, Count, Crew, KeepType, as_json, engine_options, options_of
from bench.console import OutFolder, model_options, of_model, option, progress, say, show_json, show_table
from bench.evaluation.opening import Loader

if TYPE_CHECKING:
    from bench.data.instructions import Turns
    from compress.labels.labelling import LabelConfig
    from compress.models.loading import Anyres
    from compress.samples import Sample


@click.command()
@option("--out", required=True, type=OutFolder(locks=False), help="Folder of the label store.")
@option(
    "--samples", "count", type=Count(1), help="Number of samples. Default: 256; with --data: all.",
)  # fmt: skip
@option("--start", type=Count(0), help="Number of the first sample of the micro mixture. Default: 0.")
@option(
    "--questions", type=click.Choice(["1", "4"]),
    help="Questions about each scene of the micro mixture. Default: 4 on the busy world; otherwise 1.",
)  # fmt: skip
@file_options
@choice_options
@options_of(
    "compress.labels.labelling:LabelConfig", "config",
    {
        "kind": "Kind of label: NAME[:option=value,...] (evocomp list kinds).",
        "keep": "Visual tokens in a label: a count, or a ratio of the image's own tokens (11.1%, 1/9).",
        "grouper": "Grouping of the visual tokens: NAME[:option=value,...] (evocomp list groupers).",
        "strategy": "Search strategy: NAME[:option=value,...] (evocomp list strategies).",
        "evaluations": "Candidates evaluated per sample.",
        "positions": "Position ids of kept tokens: original, or renumbered without gaps (compact).",
        "seed": "Random seed.",
    },
    types={"keep": KeepType(), "seed": SEED, "positions": click.Choice(["original", "compact"])},
    defaults={"keep": "1/9", "strategy": "that of the kind"},
)  # fmt: skip
@engine_options
@option("--shard", default="0/1", help="Label only part i of n, as 0/4; parts may share --out.")
@option("--again", is_flag=True, help="Retry samples in quarantine.")
@option(
    "--together", type=Count(1),
    help="Samples whose candidates share batches. Labels do not depend on it. Default: 16 on a GPU; 1 on a "
    "CPU.",
)  # fmt: skip
@option(
    "--rows", type=Count(1),
    help="Decoder rows per batch; halved when memory runs out. Default: chosen for the device.",
)  # fmt: skip
@model_options
@as_json
def label(
    config: LabelConfig, out: Path, count: int | None, start: int | None, questions: str | None,
    data: Path | None,
    images: Path | None, manifest: Path | None, sources: str | None, rules: Path | None,
    turns: Turns | None,
    crew: Crew, shard: str, again: bool,
    together: int | None, rows: int | None,
    model: str, device: str, dtype: str, anyres: Anyres, machine: bool,
) -> None:  # fmt: skip
    """Search for the visual tokens to keep of many samples, and store them as labels in --out.

    Run the same command again to resume after an interruption, or with more --samples to extend the store.
    Samples that fail three times go into quarantine (`evocomp labels quarantine`) and are not retried.

    \b
    Example:
      evocomp label --out labels --samples 500 --kind group-attribution --workers 2
    """
    from bench.report.stores import summarise
    from compress.files import locked
    from compress.labels.campaign import Shard, usual_together
    from compress.labels.campaign import label as run
    from compress.labels.store import SHARED

    part = Shard.of_text(shard)
    click.get_current_context().with_resource(locked(out, part.name, SHARED))
    if data is None:
        given = {
            "--images": images, "--manifest": manifest, "--sources": sources, "--rules": rules,
            "--turns": turns,
        }  # fmt: skip
        for option, value in given.items():
            if value is not None:
                raise ValueError(f"{option} needs --data: give that file, or leave {option} out")
        from bench.tasks.mixture import training_samples
        from compress.micro.worlds import world_of

        samples: Sequence[Sample] = training_samples(
            count or 256, start or 0, world_of(model), int(questions or 0) or None
        )
        about = None
    else:
        for option, number in (("--start", start), ("--questions", questions)):
            if number is not None:
                raise ValueError(f"{option} needs the micro mixture, not --data: leave it out")
        samples = open_instructions(
            data, images, manifest, sources, rules, turns or "first", config.seed, count
        )
        about = samples.about
    loads = Loader(model, crew.device, dtype, anyres)
    with progress(f"label ({config.kind})") as report:
        store = run(
            loads, samples, out, config, engine=crew.engine, workers=crew.workers, shard=part, data=about,
            again=again, together=together or usual_together(loads.kind), rows=rows, progress=report,
        )  # fmt: skip
    if store.quarantine:
        say(f"{len(store.quarantine)} samples are in quarantine: evocomp labels quarantine {out}")
    summary = summarise(store)
    if machine:
        show_json(summary)
        return
    show_table(["label store", str(out)], [[name, cell(value)] for name, value in summary.items()])
    of = "" if data is None else f" --data {data} --images {images}"
    say(f"train on it: evocomp train --labels {out}{of}{of_model(model, dtype, anyres)} --out compressor")


COMMANDS = {"label": label}
