"""The report as Markdown."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from bench.evaluation.comparison import Comparison
from bench.evaluation.origin import Origin
from bench.report.documents import FORMATS, markdown
from bench.report.forms import csv_text, latex
from bench.report.gallery import Gallery
from bench.report.outputs import put
from bench.report.page import Page

ORIGIN = Origin("50 % of A_B & <c>", {"cpu": "two *shared* cores"}, ["evocomp compare --keep 4,2 --out a_b"])


@pytest.fixture(scope="module")
def report(comparison: Comparison, gallery: Gallery) -> Page:
    return Page(comparison, ORIGIN, gallery, {}, {"rival_1": "Keep 100 % of ~it."})


def test_markdown_has_all_sections_and_rows(report: Page) -> None:
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


def test_what_is_empty_is_left_out(report: Page) -> None:
    bare = replace(report, origin=Origin("A title", {}), about={})
    for heading in ("Methods", "Commands", "Environment"):
        assert f"## {heading}" in markdown(report) and heading not in markdown(bare)


def test_pages_and_texts_have_the_summary_and_the_others_are_the_table_alone(report: Page) -> None:
    assert list(FORMATS) == ["html", "md", "csv", "latex"]
    for name in ("html", "md"):
        assert "90.0" in FORMATS[name](report)
    assert FORMATS["csv"](report) == csv_text(report.comparison)
    assert FORMATS["latex"](report) == latex(report.comparison)


def test_files_are_utf_8_in_every_locale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A table's titles have a minus sign that code page 1252, for one, does not know."""
    write = Path.write_text

    def as_ascii(self: Path, text: str, encoding: str | None = None, **more: str) -> int:
        return write(self, text, encoding or "ascii", **more)

    monkeypatch.setattr(Path, "write_text", as_ascii)
    put(tmp_path / "table.md", "(−11.1 %)")
    assert (tmp_path / "table.md").read_bytes().decode("utf-8") == "(−11.1 %)"
