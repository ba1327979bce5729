"""What a report says of times made by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.latency.report import LatencyReport, markdown, table, write
from bench.latency.request import LatencyCell
from bench.latency.summary import COMPARED, Speedup

CELLS = [LatencyCell("none", 16), LatencyCell("fast", 8), LatencyCell("fast", 4)]


@pytest.fixture
def report(make_measured) -> LatencyReport:
    times = make_measured({CELLS[0]: [4.0] * 3, CELLS[1]: [2.0] * 3, CELLS[2]: [1.0] * 3})
    facts = {"clock": "wall", "model": "micro", "command": "evocomp bench latency"}
    return LatencyReport(times, CELLS, facts, "none", 16, 1)


def test_intervals_are_drawn_once(report: LatencyReport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Two cells against vanilla in each stage, whatever is made of them."""
    made, of = [], Speedup.of

    def counted(*given) -> Speedup:
        made.append(given)
        return of(*given)

    monkeypatch.setattr(Speedup, "of", counted)
    write(report, tmp_path)
    table(report)
    assert len(made) == 2 * len(COMPARED)


def test_markdown_has_a_line_for_every_row(report: LatencyReport):
    told = markdown(report)
    assert "| method | keep |" in told and "| --- | ---: |" in told
    assert "| fast | 4 | 4.0 |" in told
    assert "| total: times faster at | 8 | 4 |" in told and "| fast | 2.00 | 4.00 |" in told


def test_the_page_has_every_table_and_the_picture(report: LatencyReport, tmp_path: Path):
    write(report, tmp_path)
    page = (tmp_path / "latency.html").read_text()
    assert "<h1>Latency of micro</h1>" in page and ">evocomp bench latency</pre>" in page
    for row in table(report).rows:
        assert all(f">{cell}</t" in page for cell in row)
    assert ">total: times faster at</th>" in page and page.count("data:image/png") == 1
