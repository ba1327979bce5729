"""`evocomp compare`: methods side by side on the same samples at the same budgets."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from bench.commands.common import (
    OutFolder,
    as_json,
    data_options,
    load_model,
    model_options,
    open_tasks,
    progress,
    say,
    show_comparison,
    show_json,
    specs,
    whole_numbers,
)

if TYPE_CHECKING:
    from compress.base import Accounting

CONTROLS = "random,grid,fastv,visionzip,evocomp"


@click.command()
@click.option(
    "--methods",
    "wanted",
    default=CONTROLS,
    show_default=True,
    help="NAME or NAME:option=value,... with commas (evocomp methods).",
)
@click.option(
    "--keep", "keeps", default="48,32,16", show_default=True, callback=whole_numbers, help="Budgets."
)
@data_options
@click.option("--reference", help="Method whose paired gaps are shown; the last one by default.")
@click.option("--compressor", help="Folder of a trained compressor; the shipped one by default.")
@click.option("--accounting", type=click.Choice(["average", "nominal"]), default="average", show_default=True)
@click.option("--batch", default=16, show_default=True, type=click.IntRange(1))
@click.option("--out", type=OutFolder(), help="Folder for results, tables and the report.")
@model_options
@as_json
@click.pass_obj
def compare(
    command: str, wanted: str, keeps: list[int], tasks: str, count: int | None, data: str | None,
    protocol: str | None, split: str | None, reference: str | None,
    compressor: str | None, accounting: Accounting, batch: int, out: Path | None,
    model: str, device: str, dtype: str, machine: bool,
) -> None:  # fmt: skip
    """Score methods at equal budgets; the untouched model is always the first row.

    \b
    Example:
      evocomp compare --methods fastv:layer=3,evocomp --keep 48,16 --tasks pope,gqa --out tables
    """
    from bench.compare import VANILLA, Entry, records
    from bench.compare import compare as run
    from bench.compressors import selector_for, takes_compressor
    from bench.outputs import write

    methods = [spec for spec in specs(wanted) if spec != VANILLA]  # its row is there anyway
    if not methods:
        raise ValueError(f"--methods {wanted}: name a method besides {VANILLA} (evocomp methods)")
    if compressor and not any(map(takes_compressor, methods)):
        raise ValueError("no method takes the --compressor: leave it out, or add evocomp to --methods")
    if reference and reference not in methods:
        raise ValueError(f"--reference {reference}: choose one of {', '.join(methods)}")
    entries = [
        Entry(spec, selector_for(spec, model, compressor if takes_compressor(spec) else None))
        for spec in methods
    ]
    opened = open_tasks(tasks, count, data, protocol, split)
    mllm = load_model(model, device, dtype)
    with progress("compare", "cells") as report:
        found = run(
            mllm, entries, keeps, opened, reference=reference or methods[-1],
            batch=batch, accounting=accounting, progress=report,
        )  # fmt: skip
    if out:
        write(found, mllm, out, title=f"{mllm.name}: methods at equal budgets", commands=[command])
    if machine:
        show_json(records(found, mllm))
    else:
        show_comparison(found)
        if out:
            say(f"results, tables and report.html are in {out}")


COMMANDS = {"compare": compare}
