"""One table as text, Markdown, CSV and LaTeX; cells are plain text, and each form escapes them."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass

from bench.console import drawn

TEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "−": "$-$"}
TEX |= {"°": r"$^\circ$", "†": r"$^\dagger$", "–": "--", "<": "$<$", ">": "$>$"}
TEX |= {sign: f"\\{sign}" for sign in "&%$#_{}"}


class Bold(str):
    """A cell that Markdown and LaTeX print in bold."""


@dataclass(frozen=True)
class Table:
    """A header, and rows with one cell per column; a row of a single text is a heading for the rows below.

    `notes` are lines below the table, `title` is a line above it. CSV has neither, and no headings.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str] | str]
    notes: Sequence[str] = ()
    title: str = ""

    def text(self) -> str:
        """The table for a terminal; numbers are right-aligned."""
        lines = [[row, *self._empty] if isinstance(row, str) else list(row) for row in self.rows]
        return drawn(self.header, lines, self.title or None) + "".join(f"{note}\n" for note in self.notes)

    def markdown(self) -> str:
        """The table in GitHub's Markdown; all columns except the first are right-aligned."""
        lines = [f"**{plain(self.title)}**", ""] if self.title else []
        rows: list[Sequence[str]] = [[*map(plain, self.header)], ["---", *("---:" for _ in self._empty)]]
        for row in self.rows:
            if isinstance(row, str):
                rows.append([f"*{plain(row)}*", *self._empty])
            else:
                rows.append([*map(_marked, row)])
        lines += [f"| {' | '.join(row)} |" for row in rows]
        if self.notes:
            lines += ["", *bullets(self.notes)]
        return "\n".join(lines) + "\n"

    def csv(self) -> str:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(self.header)
        writer.writerows(row for row in self.rows if not isinstance(row, str))
        return text.getvalue()

    def latex(self) -> str:
        r"""A `tabular` for booktabs."""
        wide = rf"\multicolumn{{{len(self.header)}}}"
        lines = [rf"\begin{{tabular}}{{l{'r' * len(self._empty)}}}", r"\toprule", _line(self.header)]
        if self.title:
            lines.append(rf"{wide}{{c}}{{\textbf{{{tex(self.title)}}}}} \\")
        if self.rows and not isinstance(self.rows[0], str):
            lines.append(r"\midrule")
        for row in self.rows:
            if isinstance(row, str):
                lines += [r"\midrule", rf"{wide}{{c}}{{\textit{{{tex(row)}}}}} \\"]
            else:
                lines.append(_line(row))
        lines.append(r"\bottomrule")
        lines += [rf"{wide}{{l}}{{\footnotesize {tex(note)}}} \\" for note in self.notes]
        return "\n".join([*lines, r"\end{tabular}"]) + "\n"

    @property
    def _empty(self) -> list[str]:
        """Empty cells beside a heading."""
        return [""] * (len(self.header) - 1)


def bullets(notes: Sequence[str]) -> list[str]:
    """The notes as lines of a Markdown list."""
    return [f"- {plain(note)}" for note in notes]


def plain(text: str) -> str:
    """The text in one line, with Markdown's special characters escaped."""
    return re.sub(r"[\\|*_<>`&]|(?<=\])\(", r"\\\g<0>", " ".join(text.split()))


def tex(text: str) -> str:
    """The text with LaTeX's special characters escaped."""
    return "".join(TEX.get(sign, sign) for sign in text)


def _marked(cell: str) -> str:
    return f"**{plain(cell)}**" if isinstance(cell, Bold) else plain(cell)


def _line(cells: Sequence[str]) -> str:
    return " & ".join(map(_set, cells)) + r" \\"


def _set(cell: str) -> str:
    """A cell in LaTeX; signs of numbers are set as mathematics."""
    text = re.sub(r"(?<![\w-])[+-](?=\d)", r"$\g<0>$", tex(cell))
    return rf"\textbf{{{text}}}" if isinstance(cell, Bold) else text
