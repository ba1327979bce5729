"""How far methods follow the question, as a table."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from math import isnan

from bench.evaluation.comparison import Comparison
from bench.evaluation.question import COLUMNS, Heard, Sensitivity, measured
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


def of_comparison(comparison: Comparison) -> Table | None:
    """The rows of a comparison, on its tasks that ask several questions about an image; None without such.

    What a comparison keeps of a choice are the tokens, so AUCs are those of what was kept.
    """
    found: dict[str, Sensitivity] = {}
    untouched = [row for row in comparison.rows if row.untouched]
    for row in comparison.rows:
        for task, samples in comparison.samples.items():
            run = comparison.outcomes.get((row.method, row.keep, task))
            whole = next((comparison.outcomes.get((one.method, one.keep, task)) for one in untouched), None)
            if row.untouched or run is None or whole is None or len(run.kept) != len(samples):
                continue
            pairs = zip(run.kept, whole.kept, strict=True)
            heard = [Heard.of(kept, len(every)) for kept, every in pairs]
            with suppress(ValueError):  # one question per image
                found[f"{row.method}, {row.keep}, {task}"] = measured(samples, heard)
    return table(found, "") if found else None


def _cell(one: Interval) -> str:
    if isnan(one.difference):
        return "–"
    return f"{one.difference:.2f} ± {(one.high - one.low) / 2:.2f}"
