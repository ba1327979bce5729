"""`evocomp compare`: methods side by side on the same samples at the same budgets."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bench.commands.common import (
    as_json,
    load_model,
    model_options,
    names,
    progress,
    say,
    show_comparison,
    show_json,
    whole_numbers,
)

if TYPE_CHECKING:
    from compress.base import Accounting, Selector

CONTROLS = "random,grid,fastv,visionzip,evocomp"


@click.command()
@click.option(
    "--methods", "wanted", default=CONTROLS, show_default=True, help='Specs with ";" or names with commas.'
)
@click.option(
    "--keep", "keeps", default="48,32,16", show_default=True, callback=whole_numbers, help="Budgets."
)
@click.option("--tasks", default="all", show_default=True, help="Names with commas (evocomp tasks).")
@click.option("-n", "count", default=200, show_default=True, type=click.IntRange(1), help="Samples per task.")
@click.option("--reference", help="Method whose paired gaps are shown; the last one by default.")
@click.option("--compressor", help="Folder of a trained compressor; the shipped one by default.")
@click.option("--accounting", type=click.Choice(["average", "nominal"]), default="average", show_default=True)
@click.option("--batch", default=16, show_default=True, type=click.IntRange(1))
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for results, tables and the report.",
)
@model_options
@as_json
def compare(
    wanted: str, keeps: list[int], tasks: str, count: int, reference: str | None, compressor: str | None,
    accounting: Accounting, batch: int, out: Path | None, model: str, device: str, dtype: str, machine: bool,
) -> None:  # fmt: skip
    """Score methods at equal budgets; the untouched model is always the first row.

    A method with options needs semicolons between methods: --methods "fastv:layer=3;evocomp:depth=1".

    \b
    Example:
      evocomp compare --methods visionzip,fastv,evocomp --keep 48,16 --tasks pope,gqa -n 100 --out tables
    """
    from bench.compare import VANILLA, Entry, load_tasks, records
    from bench.compare import compare as run
    from bench.compressors import selector_for, takes_compressor
    from bench.outputs import write
    from bench.tasks import BENCHMARKS

    separator = ";" if ";" in wanted or ":" in wanted else ","
    specs = [part.strip() for part in wanted.split(separator) if part.strip()]
    if not specs:
        raise ValueError("--methods names no method: see evocomp methods")
    mllm = load_model(model, device, dtype)
    entries = []
    for spec in specs:
        folder = compressor if takes_compressor(spec) else None
        selector = selector_for(spec, mllm.name, folder)
        if spec != VANILLA:
            entries.append(Entry(spec, _always(selector)))
    if reference and reference not in [entry.name for entry in entries]:
        raise ValueError(
            f"--reference {reference}: choose one of {', '.join(entry.name for entry in entries)}"
        )
    data = load_tasks(names(tasks, BENCHMARKS), count)
    with progress("compare", "cells") as report:
        found = run(
            mllm, entries, keeps, data, reference=reference or (entries[-1].name if entries else None),
            batch=batch, accounting=accounting, progress=report,
        )  # fmt: skip
    if out:
        write(found, mllm, out, title=f"{mllm.name}: methods at equal budgets")
    if machine:
        show_json(records(found, mllm))
    else:
        show_comparison(found)
        if out:
            say(f"results, tables and report.html are in {out}")


def _always(selector: Selector) -> Callable[[], Selector]:
    return lambda: selector


COMMANDS = {"compare": compare}
