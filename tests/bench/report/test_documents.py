"""The report as Markdown and as LaTeX."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from bench.evaluation.comparison import Comparison
from bench.evaluation.origin import Origin
from bench.report.documents import FORMATS, latex, markdown
from bench.report.gallery import Gallery
from bench.report.page import Report

ORIGIN = Origin("50 % of A_B & <c>", {"cpu": "two *shared* cores"}, ["evocomp compare --keep 4,2 --out a_b"])


@pytest.fixture(scope="module")
def report(comparison: Comparison, gallery: Gallery) -> Report:
    return Report(comparison, ORIGIN, gallery, {}, {"rival_1": "Keep 100 % of ~it."})


def test_markdown_has_all_sections_and_rows(report: Report) -> None:
    text = markdown(report)
    assert re.findall(r"^## (.*)$", text, re.M) == [
        "Table", "Visual tokens entering each decoder layer", "Methods", "Commands", "Environment",
    ]  # fmt: skip
    assert text.startswith("# 50 % of A\\_B \\& \\<c\\>\n\n- ours keeps 90.0 %")
    assert "| control | 4 | 16 × 1, 0 × 3 |" in text and "| rival\\_1 | 2 | 2 × 4 |" in text
    assert "- rival\\_1: Keep 100 % of ~it." in text and "- cpu: two \\*shared\\* cores" in text
    assert "```sh\nevocomp compare --keep 4,2 --out a_b\n```" in text
    tables = [line.count("|") - line.count("\\|") for line in text.splitlines() if line.startswith("|")]
    assert len(set(tables)) == 2, "every row of a table has as many cells as its head"


def test_what_is_empty_is_left_out(report: Report) -> None:
    bare = replace(report, origin=Origin("A title", {}), about={})
    for form in (markdown, latex):
        for heading in ("Commands", "Environment"):
            assert heading in form(report) and heading not in form(bare)
    assert "## Methods" not in markdown(bare) and "Methods" not in latex(bare)


def test_latex_is_closed_and_escaped(report: Report) -> None:
    text = latex(report)
    opened = []
    for kind, name in re.findall(r"\\(begin|end)\{(\w+)\*?\}", text):
        if kind == "begin":
            opened.append(name)
        else:
            assert opened.pop() == name
    assert opened == []
    bare = re.sub(r"\\[\\{}%&_#$]", "", text)
    assert bare.count("{") == bare.count("}")
    body = bare.partition(r"\begin{document}")[2]
    assert "%" not in body.replace("{!}{%\n", "") and "_" not in body
    assert r"50 \% of A\_B \& " in text
    assert r"\texttt{evocomp compare -{}-keep 4,2 -{}-out a\_b}" in text


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="needs a LaTeX")
def test_latex_compiles(report: Report, tmp_path: Path) -> None:
    (tmp_path / "report.tex").write_text(latex(report))
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "report.tex"]
    made = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert made.returncode == 0, made.stdout[-2000:]


def test_all_forms_have_the_summary(report: Report) -> None:
    assert list(FORMATS) == ["html", "md", "latex"]
    for form in FORMATS.values():
        assert "90.0" in form(report)
