"""One table in four forms; each escapes what it would read as marks."""

from __future__ import annotations

import csv
import io

from bench.report.tables import Bold, Table

TABLE = Table(
    ["method", "Avg. %"],
    ["4_of_16", ["rival_1 | <b>", Bold("+10.0 [-7.9, 12.1]*")], ["evocomp+", "–"]],
    notes=["50 % & more"],
    title="MIXED",
)


def test_markdown_escapes_and_aligns() -> None:
    assert TABLE.markdown().splitlines() == [
        "**MIXED**",
        "",
        "| method | Avg. % |",
        "| --- | ---: |",
        r"| *4\_of\_16* |  |",
        r"| rival\_1 \| \<b\> | **+10.0 [-7.9, 12.1]\*** |",
        "| evocomp+ | – |",
        "",
        r"- 50 % \& more",
    ]


def test_latex_escapes_and_sets_signs_of_numbers() -> None:
    assert TABLE.latex().splitlines() == [
        r"\begin{tabular}{lr}",
        r"\toprule",
        r"method & Avg. \% \\",
        r"\multicolumn{2}{c}{\textbf{MIXED}} \\",
        r"\midrule",
        r"\multicolumn{2}{c}{\textit{4\_of\_16}} \\",
        r"rival\_1 | $<$b$>$ & \textbf{$+$10.0 [$-$7.9, 12.1]*} \\",
        r"evocomp+ & -- \\",
        r"\bottomrule",
        r"\multicolumn{2}{l}{\footnotesize 50 \% \& more} \\",
        r"\end{tabular}",
    ]


def test_latex_without_headings_has_a_rule_below_the_header() -> None:
    assert Table(["a"], [["1"]]).latex().splitlines()[3:6] == [r"\midrule", r"1 \\", r"\bottomrule"]


def test_csv_has_the_rows_alone() -> None:
    assert list(csv.reader(io.StringIO(TABLE.csv()))) == [["method", "Avg. %"], *TABLE.rows[1:]]


def test_text_has_heading_rows_notes_and_title() -> None:
    lines = [line.strip() for line in TABLE.text().splitlines()]
    assert lines[0] == "MIXED" and lines[-1] == "50 % & more" and "4_of_16" in lines
    assert any(line.startswith("evocomp+") and line.endswith("–") for line in lines)
