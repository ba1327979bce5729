"""Results of a benchmark as one self-contained HTML page: tables, plots, and their origin."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bench.report.tables import Table
from bench.report.templates import embedded, template


@dataclass(frozen=True)
class Sheet:
    """The content of the page. `tables` are given by heading, `plots` are PNGs by caption.

    `facts` are settings and environment. The fact "command" is shown as a command.
    """

    title: str
    about: str  # content of the tables, in a sentence
    tables: Mapping[str, Table]
    facts: Mapping[str, Any]
    plots: Mapping[str, bytes] = field(default_factory=dict)


def html(sheet: Sheet) -> str:
    """The page; it is self-contained and requests nothing."""
    facts = dict(sheet.facts)
    command = facts.pop("command", "")
    return template("sheet").render(
        title=sheet.title, about=sheet.about, tables=sheet.tables, plots=embedded(sheet.plots),
        facts={name: _words(value) for name, value in facts.items()}, commands=[command] if command else [],
    )  # fmt: skip


def _words(value: object) -> str:
    if isinstance(value, Mapping):
        return "; ".join(f"{name}: {_words(each)}" for name, each in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(map(_words, value))
    return str(value)
