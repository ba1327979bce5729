"""`evocomp compare`: methods side by side on the same samples at the same budgets."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bench.commands.inputs import open_tasks
from bench.commands.options import (
    BATCH,
    MARGIN,
    MATCH,
    SOURCE,
    Amount,
    BatchSize,
    Crew,
    as_json,
    data_options,
    engine_options,
    keeps_option,
    options_of,
)
from bench.console import OutFolder, model_options, option, progress, say, show_json
from bench.evaluation.opening import Loader, load_model
from bench.report.terminal import show_comparison

if TYPE_CHECKING:
    from bench.evaluation.grid import CompareOptions
    from compress.models.loading import Anyres


def budgeted(values: dict[str, Any]) -> CompareOptions:
    """The defaults, with the budgets of --keep."""
    from bench.evaluation.grid import CompareOptions

    return CompareOptions(values.pop("keeps"))


@click.command()
@options_of(
    "bench.evaluation.grid:CompareOptions", "options",
    {
        "methods": "Methods, separated by commas: NAME or NAME:option=value,..., or all (evocomp list "
        "methods).",
        "match": MATCH,
        "reference": "Method to test all others against, besides none.",
        "difficulty": "Method whose correct answers mark a question as easy.",
        "margin": MARGIN,
        "compressor": "Folder or hub name of a trained compressor.",
        "source": SOURCE,
        "positions": "Position ids of kept tokens: original, or renumbered without gaps (compact).",
        "batch": BATCH,
    },
    names={"source": "--indices-from"},
    types={"margin": Amount(0, min_open=True), "batch": BatchSize()},
    defaults={
        "reference": "the last one",
        "difficulty": "downsample, if it is compared",
        "compressor": "the shipped one",
        "positions": "as in each method's own code",
        "batch": "auto",
    },
    start=budgeted,
)  # fmt: skip
@keeps_option("48,32,16")
@data_options
@option(
    "--out", type=OutFolder(), help="Folder for results, tables and the report. An existing one is resumed."
)
@engine_options
@model_options
@as_json
@click.pass_obj
def compare(
    command: str, options: CompareOptions, tasks: str, count: int | None, data: str | None,
    protocol: str | None, split: str | None, out: Path | None, crew: Crew, model: str, device: str,
    dtype: str, anyres: Anyres, machine: bool,
) -> None:  # fmt: skip
    """Score several methods at equal budgets; the first row is the untouched model.

    Every finished cell is kept in --out. Run the same command again to resume after an interruption, or with
    more methods, budgets or tasks to extend the table. Rows with --indices-from have names of their own, so
    one folder can hold a method with and without it.

    With --devices or --engine ray, every worker loads the model onto its device. The command itself loads it
    onto the CPU, and does not run it. Long cells are divided among workers.

    \b
    Example:
      evocomp compare --methods fastv:layer=3,evocomp --keep 48,16 --tasks pope,gqa --out tables
    """
    from bench.evaluation.origin import Origin
    from bench.report.outputs import of_model, write
    from bench.report.results import results

    selectors = options.selectors(model)
    opened = open_tasks(tasks, count, data, protocol, split, model=model)
    loads = Loader(model, crew.device, dtype, anyres) if crew.engine.elsewhere else None
    mllm = load_model(model, "cpu" if loads else device, dtype, anyres)
    source = load_model(options.source, device, dtype, anyres) if options.source else None
    with progress("compare", "cells") as report:
        found = options.run(
            mllm, source, selectors, opened, out, engine=crew.engine, workers=crew.workers, loads=loads,
            progress=report, say=say,
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
