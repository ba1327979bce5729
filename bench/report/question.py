"""How far methods follow the question, as a table."""

from __future__ import annotations

from collections.abc import Mapping
from math import isnan

from bench.evaluation.question import COLUMNS, Sensitivity
from bench.evaluation.stats import Interval
from bench.report.tables import Table

HEADER = ("method", "AUC, own question", "AUC, other question", "gain", "overlap", "asked", "area")
NOTES = (
    "AUC: tokens of the things that a question asks about against tokens of other things, by the method's"
    " scores, or by what it keeps where it has none. 0.5 is chance.",
    "Other question: the same tokens, ranked for another question about the image. Gain: the difference.",
    "Overlap: share of kept tokens that are also kept for the other question. Asked: share of kept tokens"
    " that show asked things. Area: their share of all tokens.",
    "± is half of the 95 % interval over images.",
)


def table(found: Mapping[str, Sensitivity], title: str) -> Table:
    """One row per method."""
    rows = [[name, *(_cell(getattr(one, column)) for column in COLUMNS)] for name, one in found.items()]
    return Table(HEADER, rows, NOTES, title)


def _cell(one: Interval) -> str:
    if isnan(one.difference):
        return "–"
    return f"{one.difference:.2f} ± {(one.high - one.low) / 2:.2f}"
