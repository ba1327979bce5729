"""`evocomp data`: the miniature benchmarks as files."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from bench.commands.common import OutFolder, as_json, names, say, show_json, show_table


@click.group()
def data() -> None:
    """Folders of benchmarks, as `evocomp eval --data DIR` reads them.

    \b
    Example:
      evocomp data export --out benchmarks -n 40
    """


@data.command()
@click.option("--out", required=True, type=OutFolder(), help="Folder of benchmarks to write to.")
@click.option("--tasks", default="all", show_default=True, help="Names with commas (evocomp tasks).")
@click.option("-n", "count", default=200, show_default=True, type=click.IntRange(1), help="Samples per task.")
@click.option(
    "--format", "layout", type=click.Choice(["official", "lmms-lab"]), default="official", show_default=True
)
@click.option("--split", type=click.Choice(["test", "val"]), default="test", show_default=True)
@as_json
def export(
    out: Path, tasks: str, count: int, layout: Literal["official", "lmms-lab"], split: str, machine: bool
) -> None:  # fmt: skip
    """Write the miniature benchmarks in the files that the big ones are distributed in.

    \b
    Example:
      evocomp data export --out benchmarks -n 40 --format lmms-lab
    """
    from bench.data.export import export as run
    from bench.tasks import TASKS

    sizes = run(
        out,
        names(tasks, "--tasks", [name for name, task in TASKS.items() if task.splits]),
        count,
        layout,
        split,
    )
    if machine:
        show_json(sizes)
        return
    show_table(["task/split", "samples"], [[name, str(size)] for name, size in sizes.items()])
    say(f"read them: evocomp eval --data {out}")


COMMANDS = {"data": data}
