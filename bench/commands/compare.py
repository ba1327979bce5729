"""`evocomp compare`: methods side by side on the same samples at the same budgets."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from bench.commands.inputs import by_source, open_batches, open_tasks
from bench.commands.options import (
    PROCESSES,
    Count,
    as_json,
    batch_option,
    data_options,
    keeps_option,
    margin_option,
    match_option,
    source_option,
)
from bench.console import OutFolder, model_options, option, progress, say, show_json
from bench.evaluation.opening import load_model
from bench.report.terminal import show_comparison
from evosearch.registry import specs

if TYPE_CHECKING:
    from compress.base import Positions
    from compress.budget import Match
    from compress.keep import Keep
    from compress.models.loading import Anyres

CONTROLS = "random,grid,fastv,visionzip,evocomp"


@click.command()
@option(
    "--methods",
    "wanted",
    default=CONTROLS,
    help="Methods, separated by commas: NAME or NAME:option=value,..., or all (evocomp list methods).",
)
@keeps_option("48,32,16")
@match_option
@data_options
@option("--reference", help="Method to test all others against, besides none. Default: the last one.")
@option(
    "--difficulty",
    help="Method whose correct answers mark a question as easy. Default: downsample, if it is compared.",
)
@margin_option()
@option("--compressor", help="Folder or hub name of a trained compressor. Default: the shipped one.")
@source_option
@option(
    "--positions",
    type=click.Choice(["original", "compact"]),
    help="Position ids of kept tokens: original, or renumbered without gaps (compact). Default: as"
    " in each method's own code.",
)
@batch_option
@option(
    "--workers", default=1, type=Count(1, PROCESSES),
    help="Number of processes. Results do not depend on it.",
)  # fmt: skip
@option(
    "--out", type=OutFolder(), help="Folder for results, tables and the report. An existing one is resumed."
)
@model_options
@as_json
@click.pass_obj
def compare(
    command: str, wanted: str, keeps: list[Keep], match: Match, tasks: str, count: int | None,
    data: str | None, protocol: str | None, split: str | None, reference: str | None,
    difficulty: str | None, margin: float, compressor: str | None, source: str | None,
    positions: Positions | None, batch: int | None, workers: int, out: Path | None, model: str, device: str,
    dtype: str, anyres: Anyres, machine: bool,
) -> None:  # fmt: skip
    """Score several methods at equal budgets; the first row is the untouched model.

    Every finished cell is kept in --out. Run the same command again to resume after an interruption, or with
    more methods, budgets or tasks to extend the table. Rows with --indices-from have names of their own, so
    one folder can hold a method with and without it.

    \b
    Example:
      evocomp compare --methods fastv:layer=3,evocomp --keep 48,16 --tasks pope,gqa --out tables
    """
    from bench.evaluation.compare import DIFFICULTY, Entry
    from bench.evaluation.compare import compare as run
    from bench.evaluation.comparison import VANILLA
    from bench.evaluation.compressors import buildable, selector_for, takes_compressor
    from bench.evaluation.origin import Origin
    from bench.report.outputs import of_model, write
    from bench.report.results import results

    chooser = source or model
    listed = buildable(chooser, compressor) if wanted.strip() == "all" else specs(wanted)
    methods = [spec for spec in listed if spec != VANILLA]  # its row is there anyway
    if not methods:
        raise ValueError(f"--methods {wanted}: name a method besides {VANILLA} (evocomp list methods)")
    if compressor and not any(map(takes_compressor, methods)):
        raise ValueError("no method takes the --compressor: leave it out, or add evocomp to --methods")
    for name, chosen in (("reference", reference), ("difficulty", difficulty)):
        if chosen and chosen not in methods:
            raise ValueError(f"--{name} {chosen}: choose one of {', '.join(methods)}")
    selectors = [
        selector_for(spec, chooser, compressor if takes_compressor(spec) else None) for spec in methods
    ]
    opened = open_tasks(tasks, count, data, protocol, split, model=model)
    mllm = load_model(model, device, dtype, anyres)
    other = load_model(source, device, dtype, anyres) if source else None

    def named(spec: str) -> str:
        return by_source(spec, source) if source else spec

    entries = [Entry(named(spec), one, other) for spec, one in zip(methods, selectors, strict=True)]
    with progress("compare", "cells") as report:
        found = run(
            mllm, entries, keeps, opened, reference=named(reference or methods[-1]),
            difficulty=named(difficulty or DIFFICULTY), margin=margin, batch=open_batches(batch, mllm),
            match=match, positions=positions, workers=workers, folder=out, progress=report, say=say,
        )  # fmt: skip
    if out:
        write(found, mllm, out, Origin(f"{mllm.name}: methods at equal budgets", {}, [command]))
    if machine:
        show_json(results(found, of_model(mllm)))
    else:
        show_comparison(found)
        if out:
            say(f"results.json, tables and pictures are in {out}")


COMMANDS = {"compare": compare}
