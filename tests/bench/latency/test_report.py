"""What a report says of times made by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.latency.report import Report, markdown, table, write
from bench.latency.request import Cell
from bench.latency.summary import COMPARED, Speedup

CELLS = [Cell("none", 16), Cell("fast", 8), Cell("fast", 4)]


@pytest.fixture
def report(make_measured) -> Report:
    times = make_measured({CELLS[0]: [4.0] * 3, CELLS[1]: [2.0] * 3, CELLS[2]: [1.0] * 3})
    return Report(times, CELLS, {"clock": "wall"}, "none", 16, 1)


def test_intervals_are_drawn_once(report: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Two cells against vanilla in each stage, whatever is made of them."""
    made, of = [], Speedup.of

    def counted(*given) -> Speedup:
        made.append(given)
        return of(*given)

    monkeypatch.setattr(Speedup, "of", counted)
    write(report, tmp_path)
    table(report)
    assert len(made) == 2 * len(COMPARED)


def test_markdown_has_a_line_for_every_row(report: Report):
    told = markdown(report)
    assert "| method | keep |" in told and "| --- | ---: |" in told
    assert "| fast | 4 | 4.0 |" in told
    assert "| total: times faster at | 8 | 4 |" in told and "| fast | 2.00 | 4.00 |" in told
