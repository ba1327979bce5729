"""`evocomp run`: a table or figure of the paper, or a further one."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bench.commands.options import Crew, as_json, batch_option, engine_options
from bench.console import OutFolder, model_options, option, progress, say, show_json, show_table
from bench.evaluation.opening import Loader, load_model

if TYPE_CHECKING:
    from bench.recipe.estimate import Estimate
    from compress.models.loading import MLLM, Anyres
    from compress.training.features import Where


@click.command()
@click.argument("recipe")
@option("--data", help="Folder of benchmarks (docs/benchmarks.md) or hub:OWNER. Default: the miniatures.")
@option(
    "--set", "changes", multiple=True, metavar="KEY=VALUE",
    help="Change a setting of the recipe, such as n=50 or learns.train.epochs=2; may be repeated.",
)  # fmt: skip
@option(
    "--only",
    "rows",
    multiple=True,
    metavar="ROW",
    help="Run only this row and the reference; may be repeated.",
)
@option(
    "--features", type=click.Choice(["memory", "disk", "recompute"]),
    help="Where embeddings are kept during training. Default: memory for shipped models; otherwise"
        " disk.",
)  # fmt: skip
@option("--fresh", is_flag=True, help="Search all labels again, including those that ship with the package.")
@option("--dry-run", is_flag=True, help="Print the steps and the work that is left, and stop.")
@option("--out", default="runs", type=OutFolder(locks=False), help="Folder of all runs; they share steps.")
@batch_option
@engine_options
@model_options
@as_json
@click.pass_context
def run(
    context: click.Context, recipe: str, data: str | None, changes: tuple[str, ...], rows: tuple[str, ...],
    features: Where | None, fresh: bool, dry_run: bool, out: Path, batch: int | None, crew: Crew,
    model: str, device: str, dtype: str, anyres: Anyres, machine: bool,
) -> None:  # fmt: skip
    """Run RECIPE, a shipped one (evocomp list recipes) or a YAML file, to make its table or figure.

    Each step's folder in --out is named after a hash of everything its result depends on: finished steps are
    reused, and the same command resumes after an interruption. The result is results.json, table.md and
    table.tex, with the paper's numbers beside the measured ones. Without --model, the recipe's own model is
    used. For a model that is not shipped, the compressor is trained with the paper's settings for the model's
    family, and TextVQA of --data selects the epoch.

    Labels and answers are divided among all workers. A training runs on one worker, while the others run
    other trainings or compute answers that do not depend on it. The command itself computes losses and
    timings, on the first of --devices or on --device.

    \b
    Example:
      evocomp run table5 --dry-run
    """
    from bench.recipe.schema import read
    from compress.files import locked

    if not dry_run:
        context.with_resource(locked(out))
    given = context.get_parameter_source("model")
    explicit = model if given is not click.core.ParameterSource.DEFAULT else None
    wanted = read(recipe, changes, model=explicit, data=data)
    if rows:
        wanted = wanted.only(rows)
    from bench.evaluation.history import Times
    from bench.recipe.estimate import duration, estimates
    from bench.recipe.plan import plan
    from bench.recipe.run import run as work
    from bench.recipe.steps import Workspace
    from compress.models.loading import MODELS

    @cache
    def load(name: str) -> MLLM:
        return load_model(name, crew.device, dtype, anyres)

    def loads(name: str) -> Loader:
        return Loader(name, crew.device, dtype, anyres)

    full = wanted.model not in MODELS or (wanted.source or wanted.model) not in MODELS
    shop = Workspace(
        out, load, cache(lambda name: load(name).fingerprint()), crew.workers, crew.engine, loads, batch,
        anyres, features or ("disk" if full else "memory"), not fresh,
    )  # fmt: skip
    planned = plan(wanted, shop)
    if dry_run:
        told = estimates(planned.steps, shop)
        if machine:
            show_json([record(one) for one in told])
        else:
            show_plan(told, crew.workers)
        return
    folder = work(planned, progress, context.obj)
    if machine:
        click.echo((folder / "results.json").read_text(encoding="utf-8"), nl=False)
    else:
        click.echo((folder / "table.md").read_text(encoding="utf-8"), nl=False)
        spent = ", ".join(f"{kind} {duration(taken)}" for kind, taken in Times.read(folder).seconds.items())
        say(f"steps took, those that other recipes share included: {spent or 'no time'}")
        say(f"results.json, table.md, table.tex and what they rest on are in {folder}")


def record(one: Estimate) -> dict[str, object]:
    """A line of the plan as a JSON-ready dictionary."""
    step = one.step
    return {
        "step": step.folder.name, "title": step.title, "model": step.model, "units": step.units,
        "finished": step.finished, "forwards": one.forwards, "seconds": one.seconds,
        "workers": step.workers, "measured with": one.measured or step.workers,
        "settings": getattr(step, "about", None),
    }  # fmt: skip


def show_plan(told: list[Estimate], workers: int = 1) -> None:
    """Print the plan as a table, and its sums for one worker and for all."""
    from bench.recipe.estimate import duration, in_all
    from bench.recipe.steps import TrainStep

    if not told:
        click.echo("no steps: what there is to draw needs none")
        return
    show_table(
        ["step", "what", "state", "forwards", "time"],
        [
            [
                one.step.folder.name, one.step.title, one.state, f"{one.forwards:,.0f}",
                "" if one.step.done else duration(one.seconds) + ("*" if one.measured else ""),
            ]
            for one in told
        ],
    )  # fmt: skip
    for about in dict.fromkeys(one.step.about for one in told if isinstance(one.step, TrainStep)):
        click.echo(f"trains: {about}")
    unknown = sum(one.seconds is None for one in told)
    known = duration(in_all(told, 1))
    if workers > 1:
        known += f" with 1 worker, {duration(in_all(told, workers))} with {workers},"
    time = f"about {known}" + (f" and {unknown} steps of unknown time" if unknown else "")
    click.echo(
        f"{len(told)} steps, {sum(one.step.done for one in told)} done; "
        f"{sum(one.forwards for one in told):,.0f} forwards, {time}"
    )
    if any(one.measured for one in told):
        click.echo("* measured with another number of workers, and divided by that of this command")
    if unknown:
        click.echo("times are known once a step of the same kind has run in --out")


COMMANDS = {"run": run}
