"""`evocomp card`: one page on how a comparison was measured."""

from __future__ import annotations

from pathlib import Path

import click

from bench.commands.options import OutFile
from bench.console import option, say


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@option("--out", type=OutFile(".md"), help="Markdown file to write. Default: print it.")
def card(folder: Path, out: Path | None) -> None:
    """Describe on one page of Markdown how a comparison was measured, for the readers of a paper.

    FOLDER is one that `evocomp compare --out` wrote. The page has the model and its prompt, visual tokens per
    layer and at the end of every row, protocol and size of every benchmark, statistics, seeds, options and
    departures of every method, commands, and versions. Nothing is computed again.

    \b
    Example:
      evocomp card tables --out card.md
    """
    from bench.report.card import card as card_of
    from bench.report.outputs import merged, put

    text = card_of(folder, *merged([folder]))
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        put(out, text)
        say(f"{out}")
    else:
        click.echo(text, nl=False)


COMMANDS = {"card": card}
