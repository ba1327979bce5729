"""`evocomp report`: finished comparisons as a page or a text."""

from __future__ import annotations

from pathlib import Path

import click

from bench.commands.options import Count, OutFile, margin_option
from bench.console import say

SUFFIXES = {"html": ".html", "md": ".md"}


@click.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--format", "form", type=click.Choice(list(SUFFIXES)), default="html", show_default=True)
@click.option(
    "--out", type=OutFile(*SUFFIXES.values()), help="File to write; report.html (.md) by default."
)
@click.option("--title", default="", help="The runs' own by default.")
@click.option(
    "--samples", default=200, show_default=True, type=Count(1),
    help="Samples to browse in the page, all tasks together.",
)  # fmt: skip
@click.option(
    "--reference", help="Method that all are tested against, besides none; the first run's by default."
)
@click.option("--difficulty", help="Method whose right answers make a question easy.")
@margin_option(None)
@click.option("--mixed", is_flag=True, help="Also where protocols differ; the report says how.")
def report(
    runs: tuple[Path, ...], form: str, out: Path | None, title: str, samples: int, reference: str | None,
    difficulty: str | None, margin: float | None, mixed: bool,
) -> None:  # fmt: skip
    """One self-contained report of what `evocomp compare --out` or `evocomp demo` left in RUNS.

    The HTML page requests nothing: tables to sort, plots, samples with the tokens that each method kept at
    each budget, its answer and whether that is right, ledger, commands and environment. Nothing is computed
    again, and neither model nor benchmark is needed.

    \b
    Example:
      evocomp report tables more-tables --reference evocomp --out report.html
    """
    from bench.evaluation.merge import merge
    from bench.evaluation.origin import Origin
    from bench.evaluation.origin import joined as join_origins
    from bench.report.documents import FORMATS
    from bench.report.gallery import joined as join_galleries
    from bench.report.gallery import read_gallery
    from bench.report.outputs import put
    from bench.report.outputs import report as told

    if out and out.suffix != SUFFIXES[form]:
        raise ValueError(
            f"{out}: the name of a report in {form} ends in {SUFFIXES[form]}, or choose --format"
        )
    origin = join_origins([Origin.read(run) for run in runs], title)
    found = merge(
        runs, reference=reference or origin.reference, difficulty=difficulty or origin.difficulty,
        margin=margin or origin.margin, mixed=mixed,
    )  # fmt: skip
    made = told(found, origin, join_galleries([read_gallery(run) for run in runs]), samples)
    path = out or Path(f"report{SUFFIXES[form]}")
    path.parent.mkdir(parents=True, exist_ok=True)
    put(path, FORMATS[form](made))
    say(f"{path}, {path.stat().st_size / 2**20:.1f} MiB")


COMMANDS = {"report": report}
