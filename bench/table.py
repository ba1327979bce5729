"""A comparison as the paper's table: as text, Markdown, CSV and LaTeX.

A block per budget, tasks as columns, then the mean share of vanilla, the measured visual tokens per decoder
layer, seconds, and how far the reference method is ahead of each other method (paired, 95 %).
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby

from bench.compare import VANILLA, Comparison, Row
from bench.stats import Interval

TEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "−": "$-$"}
TEX |= {sign: f"\\{sign}" for sign in "&%$#_{}"}


@dataclass(frozen=True)
class Block:
    """The rows of one budget, best average first; `lead` is the row of the reference, if there is one."""

    keep: int
    tokens: int  # of the untouched image
    rows: tuple[Row, ...]

    @property
    def lead(self) -> Row | None:
        return next((row for row in self.rows if row.versus), None)

    @property
    def title(self) -> str:
        if self.keep == self.tokens and len(self.rows) == 1:
            return f"all {self.tokens} visual tokens"
        return f"{self.keep} of {self.tokens} visual tokens (−{100 - 100 * self.keep / self.tokens:.1f} %)"

    def ahead(self, row: Row) -> Interval | None:
        """How far the reference is ahead of `row`, in points of the mean share of vanilla."""
        return self.lead.versus.get(row.method) if self.lead else None

    @property
    def other(self) -> Row | None:
        """The row to hold against the first: the reference, or the second where the reference is first."""
        return self.lead if self.lead not in (None, self.rows[0]) else next(iter(self.rows[1:]), None)

    @property
    def between(self) -> Interval | None:
        """How far the reference is ahead of `other`, or of the first row where `other` is the reference."""
        return self.ahead(self.rows[0] if self.other == self.lead else self.other) if self.other else None

    def best(self, value: float, column: str) -> bool:
        """Whether a figure of `column` (a task or "average") is the block's highest, to one decimal."""
        values = [row.average if column == "average" else row.scores[column] for row in self.rows]
        return len(self.rows) > 1 and f"{value:.1f}" == f"{max(values):.1f}"


def blocks(comparison: Comparison) -> list[Block]:
    """The rows by budget: vanilla first, then in the comparison's order."""
    whole = comparison.rows[0]
    rest = groupby(comparison.rows[1:], key=lambda row: row.keep)
    return [
        Block(whole.keep, whole.keep, (whole,)),
        *(Block(keep, whole.keep, tuple(rows)) for keep, rows in rest),
    ]


def reference(comparison: Comparison) -> str | None:
    """The method whose paired gaps to the others are known."""
    return next((row.method for row in comparison.rows if row.versus), None)


def headlines(comparison: Comparison) -> list[str]:
    """One sentence per budget: who is first, who is next, and the reference's interval between them."""
    return [_headline(block) for block in blocks(comparison)[1:]]


def _headline(block: Block) -> str:
    first, other = block.rows[0], block.other
    share = f"{first.average:.1f} % of the untouched model's score"
    said = f"{first.method} keeps {share} with {block.keep} of {block.tokens} visual tokens"
    if other is None:
        return f"{said}."
    gap = f" ({block.lead.method} ahead by {block.between})" if block.lead and block.between else ""
    return (
        f"{said}; {'' if other == block.lead else 'next is '}{other.method} with {other.average:.1f} %{gap}."
    )


def header(comparison: Comparison) -> list[str]:
    """Column names of `table_rows`."""
    lead = reference(comparison)
    last = [f"{lead} ahead by, 95 %"] if lead else []
    return ["method", "keep", *comparison.tasks, "Avg. %", "tokens/layer", "seconds", *last]


def table_rows(comparison: Comparison) -> list[list[str]]:
    """The table as text, one list per row under `header`; one decimal, as the paper has it."""
    return [
        [row.method, str(row.keep), *_figures(comparison, row), *_ahead(comparison, block, row)]
        for block in blocks(comparison)
        for row in block.rows
    ]


def _figures(comparison: Comparison, row: Row) -> list[str]:
    values = [*(row.scores[task] for task in comparison.tasks), row.average, row.tokens, row.seconds]
    return [f"{value:.1f}" for value in values]


def _ahead(comparison: Comparison, block: Block, row: Row) -> list[str]:
    if reference(comparison) is None:
        return []
    if row == block.lead:
        return [f"{VANILLA}: {row.versus[VANILLA]}" if VANILLA in row.versus else ""]
    gap = block.ahead(row)
    return [str(gap) if gap else ""]


def markdown(comparison: Comparison) -> str:
    """The table in GitHub's Markdown, the best figures of each budget bold."""
    names = [name for name in header(comparison) if name != "keep"]
    lines = [_piped(names), _piped(["---", *("---:" for _ in names[1:])])]
    for block in blocks(comparison):
        lines.append(_piped([f"*{block.title}*", *("" for _ in names[1:])]))
        for row in block.rows:
            figures = _bold(comparison, block, row, "**{}**".format)
            lines.append(_piped([_plain(row.method), *figures, *_ahead(comparison, block, row)]))
    return "\n".join(lines) + "\n"


def _piped(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _plain(text: str) -> str:
    for sign in "\\|*_<>`":
        text = text.replace(sign, f"\\{sign}")
    return text


def _bold(comparison: Comparison, block: Block, row: Row, bold: Callable[[str], str]) -> list[str]:
    columns = [*comparison.tasks, "average"]
    values = [*(row.scores[task] for task in comparison.tasks), row.average]
    best = [block.best(value, column) for value, column in zip(values, columns, strict=True)]
    figures = zip(_figures(comparison, row), [*best, False, False], strict=True)
    return [bold(text) if mark else text for text, mark in figures]


def csv_text(comparison: Comparison) -> str:
    """The table as CSV: a row per method and budget; the gap of the reference to the row in three columns."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    costs = ["average", "tokens", "seconds", "ahead", "ahead_low", "ahead_high"]
    writer.writerow(["method", "keep", *comparison.tasks, *costs])
    for block in blocks(comparison):
        for row in block.rows:
            gap = block.ahead(row)
            bounds = (
                [f"{value:.1f}" for value in (gap.difference, gap.low, gap.high)] if gap else ["", "", ""]
            )
            writer.writerow([row.method, row.keep, *_figures(comparison, row), *bounds])
    return text.getvalue()


def latex(comparison: Comparison) -> str:
    r"""The table as a `tabular` for booktabs, the best figures of each budget bold."""
    names = [name for name in header(comparison) if name != "keep"]
    lines = [
        rf"\begin{{tabular}}{{l{'r' * (len(names) - 1)}}}",
        r"\toprule",
        _row_of([_tex(name) for name in names]),
    ]
    for block in blocks(comparison):
        lines += [r"\midrule", rf"\multicolumn{{{len(names)}}}{{c}}{{\textit{{{_tex(block.title)}}}}} \\"]
        for row in block.rows:
            figures = _bold(comparison, block, row, r"\textbf{{{}}}".format)
            gaps = [
                _tex(gap).replace("-", "$-$").replace("+", "$+$") for gap in _ahead(comparison, block, row)
            ]
            lines.append(_row_of([_tex(row.method), *figures, *gaps]))
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def _row_of(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"


def _tex(text: str) -> str:
    return "".join(TEX.get(sign, sign) for sign in text)
