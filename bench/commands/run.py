"""`evocomp run`: a table or figure of the paper, or one beyond it."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bench.commands.options import PROCESSES, Count, as_json, batch_option
from bench.console import OutFolder, model_options, progress, say, show_json, show_table
from bench.evaluation.opening import load_model

if TYPE_CHECKING:
    from bench.recipe.estimate import Estimate
    from compress.models.loading import MLLM, Anyres
    from compress.training.features import Where


@click.command()
@click.argument("recipe")
@click.option("--data", help="Folder of benchmarks (docs/benchmarks.md) or hub:OWNER.")
@click.option(
    "--set", "changes", multiple=True, metavar="KEY=VALUE",
    help="Change a setting, as n=50 or learns.train.epochs=2; may be repeated.",
)  # fmt: skip
@click.option(
    "--only", "rows", multiple=True, metavar="ROW", help="Only this row and the reference; may be repeated."
)
@click.option(
    "--features", type=click.Choice(["memory", "disk", "recompute"]),
    help="Where embeddings stay during training. Default: memory for shipped models, else disk.",
)  # fmt: skip
@click.option("--fresh", is_flag=True, help="Search all labels here, also those that ship with the package.")
@click.option("--dry-run", is_flag=True, help="Print steps, forwards, time and memory; do nothing.")
@click.option(
    "--out",
    default="runs",
    show_default=True,
    type=OutFolder(locks=False),
    help="Folder of all runs; steps are shared.",
)
@click.option("--workers", default=1, show_default=True, type=Count(1, PROCESSES), help="Processes.")
@batch_option
@model_options
@as_json
@click.pass_context
def run(
    context: click.Context, recipe: str, data: str | None, changes: tuple[str, ...], rows: tuple[str, ...],
    features: Where | None, fresh: bool, dry_run: bool, out: Path, workers: int, batch: int | None,
    model: str, device: str, dtype: str, anyres: Anyres, machine: bool,
) -> None:  # fmt: skip
    """Work off RECIPE (evocomp list recipes, or a YAML file): label, train, answer, measure, draw, compare.

    Steps are named by all that their results depend on and kept in --out: none is done twice, a changed
    setting never takes a stale one, and after an interruption the same command goes on. Leaves results.json,
    table.md and table.tex, measured beside the paper's numbers. --model is the recipe's own by default.
    For a model that does not ship, the compressor is trained with the paper's settings for its family, and
    TextVQA of --data chooses the epoch. --dry-run prints the settings.

    \b
    Example:
      evocomp run table5 --workers 2
      evocomp run table5 --only "CE only" --set n=50 --dry-run
    """
    from bench.recipe.schema import read
    from compress.files import alone

    if not dry_run:
        context.with_resource(alone(out))
    given = context.get_parameter_source("model")
    explicit = model if given is not click.core.ParameterSource.DEFAULT else None
    wanted = read(recipe, changes, model=explicit, data=data)
    if rows:
        wanted = wanted.only(rows)
    from bench.evaluation.history import Times
    from bench.recipe.estimate import duration, estimates
    from bench.recipe.plan import plan
    from bench.recipe.run import run as work
    from bench.recipe.steps import Shop
    from compress.models.loading import MODELS

    @cache
    def load(name: str) -> MLLM:
        return load_model(name, device, dtype, anyres)

    full = wanted.model not in MODELS or (wanted.source or wanted.model) not in MODELS
    shop = Shop(
        out, load, cache(lambda name: load(name).fingerprint()), workers, batch, anyres,
        features or ("disk" if full else "memory"), not fresh,
    )  # fmt: skip
    planned = plan(wanted, shop)
    if dry_run:
        told = estimates(planned.steps, shop)
        if machine:
            show_json([record(one) for one in told])
        else:
            show_plan(told)
        return
    folder = work(planned, progress, context.obj)
    if machine:
        click.echo((folder / "results.json").read_text(), nl=False)
    else:
        click.echo((folder / "table.md").read_text(), nl=False)
        spent = ", ".join(f"{kind} {duration(taken)}" for kind, taken in Times.read(folder).seconds.items())
        say(f"steps took, those that other recipes share included: {spent or 'no time'}")
        say(f"results.json, table.md, table.tex and what they rest on are in {folder}")


def record(one: Estimate) -> dict[str, object]:
    """A line of the plan, ready for JSON."""
    step = one.step
    return {
        "step": step.folder.name, "title": step.title, "model": step.model, "units": step.units,
        "finished": step.finished, "forwards": one.forwards, "seconds": one.seconds, "origin": one.origin,
        "memory": one.memory, "settings": getattr(step, "about", None),
    }  # fmt: skip


def show_plan(told: list[Estimate]) -> None:
    """The plan as a table, and its sums."""
    from bench.recipe.estimate import duration
    from bench.recipe.steps import Train

    if not told:
        click.echo("no steps: what there is to draw needs none")
        return
    show_table(
        ["step", "what", "state", "forwards", "time", "rate from", "memory, GiB"],
        [
            [
                one.step.folder.name, one.step.title, one.state, f"{one.forwards:,.0f}",
                "" if one.step.done else duration(one.seconds), one.origin, f"{one.memory / 2**30:.2f}",
            ]
            for one in told
        ],
    )  # fmt: skip
    for about in dict.fromkeys(one.step.about for one in told if isinstance(one.step, Train)):
        click.echo(f"trains: {about}")
    seconds = sum(one.seconds or 0 for one in told)
    unknown = sum(one.seconds is None for one in told)
    click.echo(
        f"{len(told)} steps, {sum(one.step.done for one in told)} done; "
        f"{sum(one.forwards for one in told):,.0f} forwards, about {duration(seconds)}"
        + (f" and {unknown} steps of unknown time" if unknown else "")
        + f", {max(one.memory for one in told) / 2**30:.2f} GiB for model and step at most"
    )


COMMANDS = {"run": run}
