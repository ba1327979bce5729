"""A report as a Markdown text and as a LaTeX document; the HTML page is `bench.report.page`'s."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from bench.evaluation.comparison import Comparison
from bench.report.forms import latex as latex_table
from bench.report.forms import markdown as markdown_table
from bench.report.forms import plain, tex
from bench.report.page import Report, html, ledger
from bench.report.table import headlines


def markdown(report: Report) -> str:
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
    lines = ["| method | tokens | entering, tokens × layers |", "| --- | ---: | --- |"]
    rows = ((method, keep, words) for (method, keep), (_, words) in ledger(comparison).items())
    return "\n".join([*lines, *(f"| {plain(method)} | {keep} | {words} |" for method, keep, words in rows)])


def latex(report: Report) -> str:
    """The same as a document that compiles by itself; its tables need booktabs only, to be taken out."""
    comparison, origin = report.comparison, report.origin
    lines = [
        r"\documentclass{article}", r"\usepackage[T1]{fontenc}", r"\usepackage[utf8]{inputenc}",
        r"\usepackage{booktabs}", r"\usepackage{graphicx}", r"\usepackage{longtable}",
        r"\usepackage[a4paper,landscape,margin=15mm]{geometry}", r"\begin{document}",
        rf"\section*{{{tex(origin.title)}}}",
    ]  # fmt: skip
    lines += _items(headlines(comparison))
    for table in latex_table(comparison).strip().split("\n\n"):
        lines += [r"\begin{center}", r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%"]
        lines += [table + "}", r"\end{center}"]
    lines += [
        r"\subsection*{Visual tokens entering each decoder layer}",
        r"\begin{longtable}{lrl}",
        r"\toprule",
    ]
    lines += [r"method & tokens & entering, tokens $\times$ layers \\", r"\midrule", r"\endhead"]
    for (method, keep), (_, words) in ledger(comparison).items():
        lines.append(rf"{tex(method)} & {keep} & {tex(words)} \\")
    lines += [r"\bottomrule", r"\end{longtable}"]
    if report.about:
        lines += [r"\subsection*{Methods}", *_items(_pairs(report.about))]
    if origin.commands:
        lines += [r"\subsection*{Commands}", *_items(origin.commands, _typed)]
    if origin.facts:
        lines += [r"\subsection*{Environment}", *_items(_pairs(origin.facts))]
    return "\n".join([*lines, r"\end{document}"]) + "\n"


def _typed(command: str) -> str:
    """With plain hyphens: two of them are no dash."""
    return rf"\texttt{{{tex(command).replace('--', '-{}-')}}}"


def _pairs(lines: Mapping[str, str]) -> list[str]:
    return [f"{name}: {text}" for name, text in lines.items()]


def _items(lines: Sequence[str], form: Callable[[str], str] = tex) -> list[str]:
    """A list, if there is anything to list."""
    return (
        [r"\begin{itemize}", *(rf"\item {form(line)}" for line in lines), r"\end{itemize}"] if lines else []
    )


FORMATS: dict[str, Callable[[Report], str]] = {"html": html, "md": markdown, "latex": latex}
