"""What a report says of times made by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bench.latency.report import LatencyReport, markdown, quantiles, table, write
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


def test_numbers_stand_under_their_names(make_measured):
    """Medians, not the slowest; half of a total is prefill, a quarter vision, an eighth each later token."""
    times = make_measured({CELLS[0]: [4.0] * 3, CELLS[1]: [1.0, 2.0, 8.0]})
    for shots in times.rounds.rounds:
        shots[CELLS[1]] = replace(shots[CELLS[1]], memory=300 * 2**20)
    times.peak = 2 * times.costs[CELLS[1]].ledger.prefill_flops  # in the second that a prefill takes
    made = LatencyReport(times, CELLS[:2], {}, "none", 16, 1)
    shown = table(made)
    told = dict(zip(shown.header, shown.rows[1], strict=True))
    assert (told["tokens/layer"], told["MiB"], told["waits"]) == ("8.0", "300", "3")
    names = ("vision", "selection", "prefill", "with selection", "first token", "token after", "total")
    assert [told[name] for name in names] == [
        "500.00", "0.00", "1000.00", "1000.00", "1500.00", "250.00", "2000.00"
    ]  # fmt: skip
    assert told["total x"] == "2.00 [0.50, 4.00]"
    assert told["roof %"] == "50"
    listed = quantiles(made)
    every = [dict(zip(listed.header, one, strict=True)) for one in listed.rows]
    (total,) = [one for one in every if (one["method"], one["stage"]) == ("fast", "total")]
    assert [total[name] for name in ("n", "median", "least", "most")] == ["3", "2.0", "1.0", "8.0"]
    assert [total[name] for name in ("speedup", "low", "high")] == ["2.0", "0.5", "4.0"]


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
