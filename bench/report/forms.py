"""The table of a comparison as Markdown, CSV and LaTeX."""

from __future__ import annotations

from collections.abc import Sequence

from bench.evaluation.comparison import Comparison, ComparisonRow, Contrast
from bench.report.table import (
    MIXED,
    Block,
    blocks,
    figures_of,
    gaps_of,
    hard_header,
    hard_rows,
    header,
    name_of,
    notes,
    rivals_of,
)
from bench.report.tables import Bold, Table


def tables(comparison: Comparison) -> list[Table]:
    """The table with one block per budget and the best values in bold, then the hard questions, if any."""
    names = [name for name in header(comparison) if name != "keep"]
    rows: list[Sequence[str] | str] = []
    for block in blocks(comparison):
        rows.append(block.title)
        rows += [
            [name_of(row), *_bold(comparison, block, row), *gaps_of(comparison, row)] for row in block.rows
        ]
    main = Table(names, rows, notes(comparison), MIXED if comparison.mixed else "")
    hard = hard_rows(comparison)
    return [main, Table(hard_header(comparison), hard)] if hard else [main]


def _bold(comparison: Comparison, block: Block, row: ComparisonRow) -> list[str]:
    best = [block.best(row, column) for column in (*comparison.tasks, "average")]
    figures = figures_of(comparison, row)
    return [Bold(text) if mark else text for text, mark in zip(figures, best + [False] * 3, strict=True)]


def markdown(comparison: Comparison) -> str:
    """The tables in GitHub's Markdown."""
    return "\n".join(table.markdown() for table in tables(comparison))


def latex(comparison: Comparison) -> str:
    """The tables in LaTeX, for booktabs."""
    return "\n".join(table.latex() for table in tables(comparison))


def csv_text(comparison: Comparison) -> str:
    """The table as CSV, with a row per method and budget, and intervals and p values in columns of their own.

    Values have no marks. `p` columns are corrected, intervals are not; `equivalent` columns have the marks of
    the other forms. `hard` columns are scores on the questions that the difficulty method misses, and the
    number of these questions.
    """
    rivals = rivals_of(comparison)
    columns = [
        "method",
        "keep",
        *comparison.tasks,
        "average",
        "tokens",
        "left",
        "flops",
        "adaptive",
        "one seed",
    ]
    for rival in rivals:
        columns += [f"vs {rival}", f"vs {rival} low", f"vs {rival} high", f"p {rival}"]
        columns += [f"equivalent to {rival}"]
        columns += [f"pooled p {rival}"]
        columns += [f"{task} p {rival}" for task in comparison.tasks]
    if comparison.difficulty:
        columns += [f"{task} {what}" for task in comparison.tasks for what in ("hard", "hard n", "easy n")]
    lines = []
    told = {(each.keep, each.task): each for each in comparison.difficulty}
    for row in comparison.rows:
        figures = [row.scores.get(task) for task in comparison.tasks]
        figures += [row.average, row.tokens, row.left, row.flops]
        cells = [_bare(figure) for figure in figures]
        for contrast in (row.vanilla, row.reference)[: len(rivals)]:
            cells += _columns(contrast, comparison.tasks, comparison.margin)
        for task in comparison.tasks if comparison.difficulty else ():
            hard = told.get((row.keep, task))
            score = hard.scores.get(row.method) if hard else None
            cells += [_bare(score), str(hard.hard) if hard else "", str(hard.easy) if hard else ""]
        flags = [str(flag).lower() for flag in (row.adaptive, row.trained)]
        lines.append([row.method, str(row.keep), *cells[: len(figures)], *flags, *cells[len(figures) :],
                      _note(comparison, row)])  # fmt: skip
    return Table([*columns, "note"], lines).csv()


def _bare(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


def _columns(contrast: Contrast | None, tasks: Sequence[str], margin: float) -> list[str]:
    if contrast is None:
        return [""] * (6 + len(tasks))
    gap = contrast.gap
    bounds = [_bare(value) for value in (gap.difference, gap.low, gap.high)] if gap else [""] * 3
    cells = [f"{contrast.tasks[task].adjusted:.2g}" if task in contrast.tasks else "" for task in tasks]
    told = [
        f"{contrast.adjusted:.2g}",
        str(gap is not None and gap.within(margin)).lower(),
        f"{contrast.pooled.adjusted:.2g}",
    ]
    return [*bounds, *told, *cells]


def _note(comparison: Comparison, row: ComparisonRow) -> str:
    reasons = [why for place, why in comparison.impossible.items() if place[:2] == (row.method, row.keep)]
    return "; ".join([*comparison.mixed, *dict.fromkeys(reasons)])
