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
from bench.console import OutFolder, model_options, option, progress, say, show_json, show_table
from bench.evaluation.opening import Loader, load_model
from bench.report.terminal import show_comparison

if TYPE_CHECKING:
    from bench.evaluation.grid import CompareOptions
    from bench.evaluation.planned import PlannedCell
    from compress.models.loading import Anyres


def budgeted(values: dict[str, Any]) -> CompareOptions:
    """Default options with the budgets of --keep."""
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
    "--out", type=OutFolder(locks=False),
    help="Folder for results, tables and the report. An existing one is resumed.",
)  # fmt: skip
@option("--dry-run", is_flag=True, help="Print the cells and the work that is left, and stop.")
@option(
    "--rates", type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="With --dry-run: another folder of `evocomp compare`, whose times the estimate is made from.",
)  # fmt: skip
@engine_options
@model_options
@as_json
@click.pass_context
def compare(
    context: click.Context, options: CompareOptions, tasks: str, count: int | None, data: str | None,
    protocol: str | None, split: str | None, out: Path | None, dry_run: bool, rates: Path | None, crew: Crew,
    model: str, device: str, dtype: str, anyres: Anyres, machine: bool,
) -> None:  # fmt: skip
    """Score several methods at equal budgets; the first row is the untouched model.

    Every finished cell is kept in --out. Run the same command again to resume after an interruption, or with
    more methods, budgets or tasks to extend the table. Rows with --indices-from have names of their own, so
    one folder can hold a method with and without it.

    With --devices or --engine ray, every worker loads the model onto its device. The command itself loads it
    onto the CPU, and does not run it. Long cells are divided among workers.

    --dry-run estimates the hours that are left, for one worker and for all, from the times of finished cells
    in --out or --rates. It computes and writes nothing.

    \b
    Example:
      evocomp compare --methods fastv:layer=3,evocomp --keep 48,16 --tasks pope,gqa --out tables
    """
    from bench.evaluation.origin import Origin
    from bench.evaluation.planned import planned
    from bench.report.outputs import of_model, write
    from bench.report.results import results
    from bench.tasks.provenance import data_facts
    from compress.files import locked

    if rates and not dry_run:
        raise ValueError("--rates needs --dry-run")
    if out and not dry_run:
        context.with_resource(locked(out))
    selectors = options.selectors(model)
    opened = open_tasks(tasks, count, data, protocol, split, model=model)
    loads = Loader(model, crew.device, dtype, anyres) if crew.engine.elsewhere else None
    mllm = load_model(model, "cpu" if loads else device, dtype, anyres)
    source = load_model(options.source, device, dtype, anyres) if options.source else None
    if dry_run:
        prepared = options.prepare(
            mllm, source, selectors, opened, out, engine=crew.engine, loads=loads, say=say
        )
        told = planned(prepared, rates)
        show_json([record(one) for one in told]) if machine else show_plan(told, crew.workers)
        return
    with progress("compare", "cells") as report:
        found = options.run(
            mllm, source, selectors, opened, out, engine=crew.engine, workers=crew.workers, loads=loads,
            progress=report, say=say,
        )  # fmt: skip
    if out:
        facts = data_facts(data, opened)
        write(found, mllm, out, Origin(f"{mllm.name}: methods at equal budgets", facts, [context.obj]))
    if machine:
        show_json(results(found, of_model(mllm)))
    else:
        show_comparison(found)
        if out:
            say(f"results.json, tables and pictures are in {out}")


def record(one: PlannedCell) -> dict[str, Any]:
    """A planned cell as a JSON-ready dictionary."""
    return {
        **one.key._asdict(), "answers": one.answers, "parts": len(one.parts), "finished": one.finished,
        "impossible": one.impossible, "seconds": one.seconds,
    }  # fmt: skip


def show_plan(cells: list[PlannedCell], workers: int) -> None:
    """Print the plan by task, and its sums for one worker and for all."""
    from bench.evaluation.planned import makespan, parts_left
    from bench.recipe.estimate import duration

    rows = []
    for task in dict.fromkeys(one.key.task for one in cells):
        mine = [one for one in cells if one.key.task == task]
        unknown = any(one.seconds is None for one in mine)
        rows.append(
            [
                task, *(str(len(listed)) for listed in _states(mine)), f"{sum(one.left for one in mine):,}",
                "?" if unknown else duration(sum(one.seconds or 0 for one in mine)),
            ]
        )  # fmt: skip
    header = ["task", "cells", "finished", "impossible", "left", "answers left", "time of one worker"]
    show_table(header, rows)
    left = [one for one in cells if one.left]
    parts = sum(len(one.parts) for one in left)
    click.echo(
        f"{len(cells)} cells, {len(left)} left in {parts:,} parts; {sum(one.left for one in left):,} answers"
    )
    known = [one for one in left if one.rate is not None]
    if known:
        times = ", ".join(
            f"{duration(makespan(parts_left(known), count))} with {count} worker{'s' * (count > 1)}"
            for count in dict.fromkeys((1, workers))
        )
        click.echo(f"about {times}: by measured times of one worker, without loading the model")
    if len(known) < len(left):
        click.echo(
            f"{len(left) - len(known)} cells of unknown time: known when --out or --rates has one of the task"
        )


def _states(cells: list[PlannedCell]) -> tuple[list[PlannedCell], ...]:
    """All cells, then those that are finished, impossible and left."""
    return (
        cells, [one for one in cells if one.finished], [one for one in cells if one.impossible],
        [one for one in cells if one.left],
    )  # fmt: skip


COMMANDS = {"compare": compare}
