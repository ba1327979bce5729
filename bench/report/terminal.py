"""A comparison as tables in the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from bench.console import show_table

if TYPE_CHECKING:
    from bench.evaluation.comparison import Comparison


def show_comparison(comparison: Comparison) -> None:
    """Print the table of a comparison, hard questions, notes, and a sentence per budget on stdout."""
    from bench.report.table import MIXED, hard_header, hard_rows, header, headlines, notes, table_rows

    show_table(header(comparison), table_rows(comparison), MIXED if comparison.mixed else None)
    if rows := hard_rows(comparison):
        show_table(hard_header(comparison), rows, "on the hard questions")
    for line in [*notes(comparison), *headlines(comparison)]:
        click.echo(line)
