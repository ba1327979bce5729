"""`evocomp table`: finished comparisons in one table."""

from __future__ import annotations

from pathlib import Path

import click

from bench.commands.options import as_json, margin_option
from bench.console import OutFolder, say, show_json
from bench.report.terminal import show_comparison


@click.command()
@click.argument("folders", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--reference", help="Method that all are tested against, besides none.")
@click.option("--difficulty", help="Method whose right answers make a question easy.")
@margin_option()
@click.option("--mixed", is_flag=True, help="Also where protocols differ; the table says how.")
@click.option("--out", type=OutFolder(), help="Folder for results.json and the tables.")
@as_json
def table(
    folders: tuple[Path, ...], reference: str | None, difficulty: str | None, margin: float, mixed: bool,
    out: Path | None, machine: bool,
) -> None:  # fmt: skip
    """One table of what several `evocomp compare --out` have computed; nothing is computed again.

    Refused where the folders differ in model, benchmark version or samples, prompt, positions, what budgets
    equal, batch size, or in what a method's name stood for.

    \b
    Example:
      evocomp table tables more-tables --reference evocomp
    """
    from bench.evaluation.merge import merge
    from bench.report.outputs import write_tables
    from bench.report.results import results

    found = merge(folders, reference=reference, difficulty=difficulty, margin=margin, mixed=mixed)
    facts = {"folders": ", ".join(map(str, folders))}
    if out:
        out.mkdir(parents=True, exist_ok=True)
        write_tables(found, out, facts)
    if machine:
        show_json(results(found, facts))
    else:
        show_comparison(found)
        if out:
            say(f"results and tables are in {out}")


COMMANDS = {"table": table}
