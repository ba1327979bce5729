"""The table of a comparison as Markdown, CSV and LaTeX."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Sequence

from bench.evaluation.comparison import Comparison, Contrast, Row
from bench.report.table import (
    AS_REFERENCE,
    AS_VANILLA,
    MISSING,
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

TEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "−": "$-$"}
TEX |= {AS_VANILLA: r"$^\circ$", AS_REFERENCE: r"$^\dagger$", MISSING: "--", "<": "$<$", ">": "$>$"}
TEX |= {sign: f"\\{sign}" for sign in "&%$#_{}"}


def markdown(comparison: Comparison) -> str:
    """The table in GitHub's Markdown, the best figures of a budget bold; notes and hard questions below."""
    names = [name for name in header(comparison) if name != "keep"]
    rows: list[list[str]] = []
    for block in blocks(comparison):
        rows.append([f"*{block.title}*", *("" for _ in names[1:])])
        for row in block.rows:
            figures = _bold(comparison, block, row, "**{}**".format)
            rows.append([plain(name_of(row)), *figures, *map(starred, gaps_of(comparison, row))])
    lines = [f"**{MIXED}**", ""] if comparison.mixed else []
    lines += [*piped(names, rows), "", *(f"- {plain(note)}" for note in notes(comparison))]
    if hard := hard_rows(comparison):
        told = [[plain(row[0]), *row[1:]] for row in hard]
        lines += ["", *piped(hard_header(comparison), told)]
    return "\n".join(lines) + "\n"


def piped(names: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table in GitHub's Markdown, all columns but the first aligned right."""
    rule = ["---", *("---:" for _ in names[1:])]
    return [f"| {' | '.join(row)} |" for row in (names, rule, *rows)]


def plain(text: str) -> str:
    """Text in one line in which Markdown sees no marks."""
    return re.sub(r"[\\|*_<>`&]|(?<=\])\(", r"\\\g<0>", " ".join(text.split()))


def starred(gap: str) -> str:
    """A difference in which Markdown takes no star for emphasis."""
    return gap.replace("*", r"\*")


def _bold(comparison: Comparison, block: Block, row: Row, bold: Callable[[str], str]) -> list[str]:
    best = [block.best(row, column) for column in (*comparison.tasks, "average")]
    figures = figures_of(comparison, row)
    return [bold(text) if mark else text for text, mark in zip(figures, best + [False] * 3, strict=True)]


def csv_text(comparison: Comparison) -> str:
    """The table as CSV: a row per method and budget; figures plain, every interval and p value in columns.

    `p` columns are corrected, intervals are not; `equivalent` says what the other forms mark. `hard` columns
    are scores on the questions that the difficulty method misses, and how many these are.
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
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*columns, "note"])
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
        writer.writerow([row.method, row.keep, *cells[: len(figures)], *flags, *cells[len(figures) :],
                         _note(comparison, row)])  # fmt: skip
    return text.getvalue()


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


def _note(comparison: Comparison, row: Row) -> str:
    reasons = [why for place, why in comparison.impossible.items() if place[:2] == (row.method, row.keep)]
    return "; ".join([*comparison.mixed, *dict.fromkeys(reasons)])


def latex(comparison: Comparison) -> str:
    r"""The table as a `tabular` for booktabs, the best figures of each budget bold; hard questions follow."""
    names = [name for name in header(comparison) if name != "keep"]
    lines = _opened(names)
    if comparison.mixed:
        lines.append(rf"\multicolumn{{{len(names)}}}{{c}}{{\textbf{{{MIXED}}}}} \\")
    for block in blocks(comparison):
        lines += [r"\midrule", rf"\multicolumn{{{len(names)}}}{{c}}{{\textit{{{tex(block.title)}}}}} \\"]
        for row in block.rows:
            figures = _bold(comparison, block, row, "\0{}\1".format)
            lines.append(
                _row_of([tex(name_of(row)), *map(tex, figures), *map(_signed, gaps_of(comparison, row))])
            )
    lines.append(r"\bottomrule")
    for note in notes(comparison):
        lines.append(rf"\multicolumn{{{len(names)}}}{{l}}{{\footnotesize {tex(note)}}} \\")
    lines.append(r"\end{tabular}")
    if hard := hard_rows(comparison):
        lines += ["", *_opened(hard_header(comparison)), r"\midrule"]
        lines += [_row_of([tex(cell) for cell in row]) for row in hard]
        lines += [r"\bottomrule", r"\end{tabular}"]
    return "\n".join(lines) + "\n"


def _opened(names: Sequence[str]) -> list[str]:
    columns = rf"\begin{{tabular}}{{l{'r' * (len(names) - 1)}}}"
    return [columns, r"\toprule", _row_of([tex(name) for name in names])]


def _row_of(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"


def _signed(gap: str) -> str:
    return tex(gap).replace("-", "$-$").replace("+", "$+$")


def tex(text: str) -> str:
    """Text in which LaTeX sees no commands."""
    bold = {"\0": r"\textbf{", "\1": "}"}
    return "".join((bold | TEX).get(sign, sign) for sign in text)
