"""A report as Markdown text; `bench.report.page` makes the HTML page."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from bench.evaluation.comparison import Comparison
from bench.report.forms import csv_text
from bench.report.forms import latex as latex_table
from bench.report.forms import markdown as markdown_table
from bench.report.page import Page, html, ledger
from bench.report.table import headlines
from bench.report.tables import Table, plain


def markdown(report: Page) -> str:
    """Summary, table with intervals and notes, ledger, methods, commands and environment; no pictures."""
    parts = [f"# {plain(report.origin.title)}"]
    if said := headlines(report.comparison):
        parts.append("\n".join(f"- {plain(line)}" for line in said))
    parts += ["## Table", markdown_table(report.comparison).strip()]
    parts += ["## Visual tokens entering each decoder layer", _ledger(report.comparison)]
    if report.about:
        parts += ["## Methods", _listed(report.about)]
    if report.origin.commands:
        parts += ["## Commands", "\n".join(["```sh", *report.origin.commands, "```"])]
    if report.origin.facts:
        parts += ["## Environment", _listed(report.origin.facts)]
    return "\n\n".join(parts) + "\n"


def _listed(lines: Mapping[str, str]) -> str:
    return "\n".join(f"- {plain(name)}: {plain(text)}" for name, text in lines.items())


def _ledger(comparison: Comparison) -> str:
    rows = [[method, str(keep), words] for (method, keep), (_, words) in ledger(comparison).items()]
    return Table(["method", "tokens", "entering, tokens × layers"], rows).markdown().strip()


FORMATS: dict[str, Callable[[Page], str]] = {
    "html": html,
    "md": markdown,
    "csv": lambda report: csv_text(report.comparison),
    "latex": lambda report: latex_table(report.comparison),
}
