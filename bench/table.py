"""A comparison as the paper's table: as text, Markdown, CSV and LaTeX.

A block per budget, tasks as columns, then the mean share of vanilla, what was really spent, and how far each
row is from vanilla and from the reference (paired, 95 %). Figures have one decimal, as the paper's. What does
not differ by more than chance is marked, what is missing is a dash, and `notes` says why.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby

from bench.budget import MEANING
from bench.comparison import VANILLA, Comparison, Contrast, Row, hard_shares
from bench.tasks.vizwiz import UNANSWERABLE

AS_VANILLA, AS_REFERENCE, MISSING = "°", "†", "–"
TEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "−": "$-$"}
TEX |= {AS_VANILLA: r"$^\circ$", AS_REFERENCE: r"$^\dagger$", MISSING: "--", "<": "$<$", ">": "$>$"}
TEX |= {sign: f"\\{sign}" for sign in "&%$#_{}"}
AVERAGE, MIXED = "Avg. %", "MIXED PROTOCOLS"


@dataclass(frozen=True)
class Block:
    """The rows of one budget, best average first."""

    keep: int
    tokens: int  # of the untouched image
    rows: tuple[Row, ...]

    @property
    def title(self) -> str:
        if all(row.untouched for row in self.rows):
            return f"all {self.tokens} visual tokens"
        return f"{self.keep} of {self.tokens} visual tokens (−{100 - 100 * self.keep / self.tokens:.1f} %)"

    @property
    def other(self) -> Row | None:
        """The row to hold against the first: the reference, or the second where the reference is first."""
        if contrast := self.rows[0].reference:
            return next((row for row in self.rows if row.method == contrast.rival), None)
        return next(iter(self.rows[1:]), None)

    @property
    def between(self) -> Contrast | None:
        """The contrast of the first row with `other`, or of `other` with the first where that was made."""
        if self.other is None:
            return None
        return self.rows[0].reference or self.other.reference

    @property
    def ahead(self) -> str:
        """How far the first row is ahead of `other`, in words; empty where that was not tested."""
        if self.between is None or self.between.gap is None:
            return ""
        gap = self.between.gap if self.rows[0].reference else -self.between.gap
        return f"ahead by {gap}{'' if self.between.significant else ', not significant'}"

    def best(self, value: float | None, column: str) -> bool:
        """Whether a figure of `column` (a task or "average") is the block's highest, to one decimal."""
        values = [row.average if column == "average" else row.scores.get(column) for row in self.rows]
        known = [each for each in values if each is not None]
        return value is not None and len(known) > 1 and one(value) == one(max(known))


def one(value: float | None) -> str:
    """A figure with the paper's single decimal, or a dash."""
    return MISSING if value is None else f"{value:.1f}"


def blocks(comparison: Comparison) -> list[Block]:
    """The rows by budget: vanilla first, then in the comparison's order."""
    tokens = comparison.rows[0].keep
    top = tuple(row for row in comparison.rows if row.untouched)
    rest = groupby(comparison.rows[len(top) :], key=lambda row: row.keep)
    return [Block(tokens, tokens, top), *(Block(keep, tokens, tuple(rows)) for keep, rows in rest)]


def marks(row: Row, column: str | None = None) -> str:
    """Signs of the rows that this one cannot be told from: on a task, or (None) by the average."""
    found = ""
    for contrast, sign in ((row.vanilla, AS_VANILLA), (row.reference, AS_REFERENCE)):
        if contrast is None:
            continue
        if column is None:
            told = row.average is None or contrast.significant
        else:
            told = column not in contrast.tasks or contrast.tasks[column].significant
        found += "" if told else sign
    return found


def notes(comparison: Comparison) -> list[str]:
    """What a reader must know, line by line: mixed protocols, budgets, marks, empty cells, adaptive rows."""
    lines = [f"Mixed protocols, not comparable: {told}" for told in comparison.mixed]
    lines.append(f"Budgets are {MEANING[comparison.match]}.")
    if comparison.metrics:
        named = (f"{task} {comparison.metrics[task]}" for task in comparison.tasks)
        lines.append(f"Scores, in percent: {', '.join(named)}.")
    rates = [
        f"{method} at {keep} {one(outcome.subscores[UNANSWERABLE])} %"
        for (method, keep, _), outcome in comparison.outcomes.items()
        if UNANSWERABLE in outcome.subscores
    ]
    if rates:
        lines.append(f"VizWiz rewards giving up; {UNANSWERABLE} are: {', '.join(rates)}.")
    signs = "".join(marks(row, column) for row in comparison.rows for column in (None, *comparison.tasks))
    rivals = {AS_VANILLA: f"{AS_VANILLA} {VANILLA}", AS_REFERENCE: f"{AS_REFERENCE} {comparison.reference}"}
    if shown := [name for sign, name in rivals.items() if sign in signs]:
        lines.append(
            f"Not significantly different from {' and '.join(shown)}: scores by McNemar's exact test, "
            f"{AVERAGE} by the paired bootstrap, at 5 % with Holm's correction over the table."
        )
    if adaptive := dict.fromkeys(row.method for row in comparison.rows if row.adaptive):
        lines.append(f"Adaptive, spends what it likes at any budget: {', '.join(adaptive)}.")
    reasons: dict[str, list[str]] = {}
    for (method, keep, task), why in comparison.impossible.items():
        reasons.setdefault(f"{method} at {keep}: {why}", []).append(task)
    every = len(comparison.tasks)
    for reason, tasks in reasons.items():
        where = "" if len(tasks) == every else f" ({', '.join(tasks)})"
        lines.append(f"{MISSING} {reason}{where}")
    return lines


def headlines(comparison: Comparison) -> list[str]:
    """One sentence per budget: who is first, who is next or the reference, and the interval between them."""
    return [_headline(block) for block in blocks(comparison)[1:] if block.rows[0].average is not None]


def _headline(block: Block) -> str:
    first, other = block.rows[0], block.other
    share = f"{one(first.average)} % of the untouched model's score"
    said = f"{first.method} keeps {share} with {block.keep} of {block.tokens} visual tokens"
    if other is None or other.average is None:
        return f"{said}."
    gap = f" ({first.method} {block.ahead})" if block.ahead else ""
    return f"{said}; {other.method} {one(other.average)} %{gap}."


def header(comparison: Comparison) -> list[str]:
    """Column names of `table_rows`."""
    against = [f"vs {name}, 95 %" for name in _rivals(comparison)]
    return ["method", "keep", *comparison.tasks, AVERAGE, "tokens/layer", "left", "FLOPs %", *against]


def table_rows(comparison: Comparison) -> list[list[str]]:
    """The table as text, one list per row under `header`."""
    return [
        [_name(row), str(row.keep), *_figures(comparison, row), *_gaps(comparison, row)]
        for block in blocks(comparison)
        for row in block.rows
    ]


def _rivals(comparison: Comparison) -> list[str]:
    if all(row.untouched for row in comparison.rows):
        return []
    others = any(row.reference for row in comparison.rows)
    return [VANILLA, comparison.reference] if others and comparison.reference else [VANILLA]


def _name(row: Row) -> str:
    return f"{row.method} (adaptive)" if row.adaptive else row.method


def _figures(comparison: Comparison, row: Row) -> list[str]:
    scores = [one(row.scores.get(task)) + marks(row, task) for task in comparison.tasks]
    return [*scores, one(row.average) + marks(row), one(row.tokens), one(row.left), one(row.flops)]


def _gaps(comparison: Comparison, row: Row) -> list[str]:
    contrasts = (row.vanilla, row.reference)[: len(_rivals(comparison))]
    return [str(contrast.gap) if contrast and contrast.gap else "" for contrast in contrasts]


# What is left when easy questions are set aside ------------------------------------------------------------


def hard_header(comparison: Comparison) -> list[str]:
    """Column names of `hard_rows`."""
    return ["method", "keep", *comparison.tasks, AVERAGE]


def hard_rows(comparison: Comparison) -> list[list[str]]:
    """Scores on the hard questions: per budget a line of counts, then the methods, the best first."""
    lines = []
    for block in blocks(comparison)[1:]:
        told = {each.task: each for each in comparison.difficulty if each.keep == block.keep}
        if not told:
            continue
        counts = [f"{told[t].hard} of {told[t].easy + told[t].hard}" if t in told else MISSING
                  for t in comparison.tasks]  # fmt: skip
        lines.append([hard_title(comparison, block.keep), str(block.keep), *counts, ""])
        shares = hard_shares(comparison, block.keep)
        named = dict.fromkeys(name for each in told.values() for name in each.scores)
        for name in sorted(named, key=lambda name: -shares.get(name, -1.0)):
            scores = [one(told[t].scores.get(name)) if t in told else MISSING for t in comparison.tasks]
            lines.append([name, str(block.keep), *scores, one(shares.get(name))])
    return lines


def hard_title(comparison: Comparison, keep: int) -> str:
    method = next(each.method for each in comparison.difficulty if each.keep == keep)
    return f"questions {method} misses"


# Forms -----------------------------------------------------------------------------------------------------


def markdown(comparison: Comparison) -> str:
    """The table in GitHub's Markdown, the best figures of a budget bold; notes and hard questions below."""
    names = [name for name in header(comparison) if name != "keep"]
    lines = [f"**{MIXED}**", ""] if comparison.mixed else []
    lines += [_piped(names), _piped(["---", *("---:" for _ in names[1:])])]
    for block in blocks(comparison):
        lines.append(_piped([f"*{block.title}*", *("" for _ in names[1:])]))
        for row in block.rows:
            figures = _bold(comparison, block, row, "**{}**".format)
            lines.append(_piped([_plain(_name(row)), *figures, *_gaps(comparison, row)]))
    lines += ["", *(f"- {_plain(note)}" for note in notes(comparison))]
    if hard := hard_rows(comparison):
        names = hard_header(comparison)
        lines += ["", _piped(names), _piped(["---", *("---:" for _ in names[1:])])]
        lines += [_piped([_plain(row[0]), *row[1:]]) for row in hard]
    return "\n".join(lines) + "\n"


def _piped(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _plain(text: str) -> str:
    for sign in "\\|*_<>`":
        text = text.replace(sign, f"\\{sign}")
    return text


def _bold(comparison: Comparison, block: Block, row: Row, bold: Callable[[str], str]) -> list[str]:
    columns = [*comparison.tasks, "average"]
    values = [*(row.scores.get(task) for task in comparison.tasks), row.average]
    best = [block.best(value, column) for value, column in zip(values, columns, strict=True)]
    figures = _figures(comparison, row)
    return [bold(text) if mark else text for text, mark in zip(figures, best + [False] * 3, strict=True)]


def csv_text(comparison: Comparison) -> str:
    """The table as CSV: a row per method and budget; figures plain, every interval and p value in columns.

    `p` columns are corrected; `same` says for what the other forms mark. `hard` columns are scores on the
    questions that the difficulty method misses, and how many these are.
    """
    rivals = _rivals(comparison)
    columns = [
        "method",
        "keep",
        *comparison.tasks,
        "average",
        "tokens",
        "left",
        "flops",
        "seconds",
        "adaptive",
    ]
    for rival in rivals:
        columns += [f"vs {rival}", f"vs {rival} low", f"vs {rival} high", f"p {rival}", f"same as {rival}"]
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
        figures += [row.average, row.tokens, row.left, row.flops, row.seconds]
        cells = [_bare(figure) for figure in figures]
        for contrast in (row.vanilla, row.reference)[: len(rivals)]:
            cells += _columns(contrast, comparison.tasks)
        for task in comparison.tasks if comparison.difficulty else ():
            hard = told.get((row.keep, task))
            score = hard.scores.get(row.method) if hard else None
            cells += [_bare(score), str(hard.hard) if hard else "", str(hard.easy) if hard else ""]
        flag = str(row.adaptive).lower()
        writer.writerow([row.method, row.keep, *cells[: len(figures)], flag, *cells[len(figures) :],
                         _note(comparison, row)])  # fmt: skip
    return text.getvalue()


def _bare(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


def _columns(contrast: Contrast | None, tasks: Sequence[str]) -> list[str]:
    if contrast is None:
        return [""] * (6 + len(tasks))
    gap = contrast.gap
    bounds = [_bare(value) for value in (gap.difference, gap.low, gap.high)] if gap else [""] * 3
    cells = [f"{contrast.tasks[task].adjusted:.2g}" if task in contrast.tasks else "" for task in tasks]
    told = [
        f"{contrast.adjusted:.2g}",
        str(not contrast.significant).lower(),
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
        lines += [r"\midrule", rf"\multicolumn{{{len(names)}}}{{c}}{{\textit{{{_tex(block.title)}}}}} \\"]
        for row in block.rows:
            figures = _bold(comparison, block, row, "\0{}\1".format)
            lines.append(
                _row_of([_tex(_name(row)), *map(_tex, figures), *map(_signed, _gaps(comparison, row))])
            )
    lines.append(r"\bottomrule")
    for note in notes(comparison):
        lines.append(rf"\multicolumn{{{len(names)}}}{{l}}{{\footnotesize {_tex(note)}}} \\")
    lines.append(r"\end{tabular}")
    if hard := hard_rows(comparison):
        lines += ["", *_opened(hard_header(comparison)), r"\midrule"]
        lines += [_row_of([_tex(cell) for cell in row]) for row in hard]
        lines += [r"\bottomrule", r"\end{tabular}"]
    return "\n".join(lines) + "\n"


def _opened(names: Sequence[str]) -> list[str]:
    columns = rf"\begin{{tabular}}{{l{'r' * (len(names) - 1)}}}"
    return [columns, r"\toprule", _row_of([_tex(name) for name in names])]


def _row_of(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"


def _signed(gap: str) -> str:
    return _tex(gap).replace("-", "$-$").replace("+", "$+$")


def _tex(text: str) -> str:
    bold = {"\0": r"\textbf{", "\1": "}"}
    return "".join((bold | TEX).get(sign, sign) for sign in text)
