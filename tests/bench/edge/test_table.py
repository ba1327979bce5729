"""Table 4: the paper's own figures through our report, and the model that counts chunks."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from bench.edge import paper
from bench.edge.table import chunk_model, figures, notes, results, rows, table, write
from bench.edge.timing import EdgeTimes, Measurement, Parity

TOTALS = {576: 1154, 192: 726, 128: 723, 64: 569}  # ms, as printed
SPEEDUPS = {576: 1.0, 192: 1.6, 128: 1.6, 64: 2.0}


def cell(keep: int, prefill: list[float], *, context: int = 32, chunks: int | None = 1) -> EdgeTimes:
    samples = {"vision": [1.0], "compression": [0.0], "prefill": prefill, "decode": [0.5]}
    return EdgeTimes(keep, keep, context, chunks, {key: (values * 3)[:3] for key, values in samples.items()})


def test_totals_and_speedups_of_the_paper():
    made = rows(paper.table())
    assert {row.keep: row.total for row in made} == TOTALS
    assert {row.keep: round(row.speedup, 1) for row in made} == SPEEDUPS
    assert round(made[-1].first, 2) == 2.17  # (220 + 853) / (218 + 121 + 156)
    assert {row.interval for row in made} == {None}  # of a single figure


def test_chunks_alone_explain_the_prefill_of_the_paper():
    made = rows(paper.table())
    assert [row.chunks for row in made] == [5, 2, 2, 1]
    for row in made:
        assert row.model == pytest.approx(row.stages["prefill"], rel=0.01)


def test_tokens_do_not_explain_it():
    """192 and 128 tokens cost the same, which no cost per token could."""
    by_token = [cell(row.keep, [row.stages["prefill"]], chunks=row.keep) for row in rows(paper.table())]
    errors = [
        abs(found / paper.PRINTED[one.keep][2] - 1)
        for found, one in zip(chunk_model(by_token), by_token, strict=True)
        if found
    ]
    assert max(errors) > 0.15


def test_a_chunk_has_one_cost_in_each_context():
    cells = [cell(100, [50.0], context=64, chunks=5), cell(30, [12.0], chunks=2), cell(10, [6.0], chunks=1)]
    assert chunk_model(cells) == [50, 12, 6]
    skewed = [cell(30, [10.0], chunks=2), cell(10, [0.0], chunks=1)]
    assert chunk_model(skewed) == [8, 4]  # least squares: 2 * 10 / (4 + 1) per chunk


def test_without_padding_there_are_no_steps_to_explain():
    cells = [cell(100, [50.0]), cell(30, [12.0], chunks=None)]
    assert chunk_model(cells)[1] is None
    measured = Measurement("phone", "W4A8KV8", False, cells)
    assert [row.model for row in rows(measured)] == [None, None]
    assert any("not padded" in line for line in notes(measured))


def test_speedups_pair_the_rounds():
    slow = [100.0, 300.0, 200.0, 500.0]
    cells = [cell(100, slow), cell(30, [one / 2 for one in slow])]
    for one in cells:
        one.samples.update(vision=[0.0] * 4, compression=[0.0] * 4, decode=[0.0] * 4)
        one.samples["prefill"] = slow if one.keep == 100 else [each / 2 for each in slow]
    whole, small = rows(Measurement("phone", "W4A8KV8", True, cells))
    assert (small.speedup, small.first, small.interval) == (2, 2, (2, 2))  # a busy round hits both
    assert whole.interval is None


@pytest.fixture
def measured() -> Measurement:
    cells = [cell(100, [50.0, 52.0, 48.0], context=64, chunks=5), cell(30, [12.0, 13.0, 11.0], chunks=2)]
    held = Parity(questions=8, same_answer=7, same_kept=8, worst=0.012, same_word=0.95, logits=20)
    return Measurement("phone", "W4A8KV8", True, cells, held, {"weights": 3 << 20, "unknown": None}, ["new"])


def test_rows_are_medians_and_percentiles(measured: Measurement):
    whole, small = rows(measured)
    assert (whole.total, small.total) == (51.5, 13.5)
    assert (whole.low, whole.high) == pytest.approx((49.9, 53.1))
    assert small.speedup == pytest.approx(51.5 / 13.5)
    assert whole.interval is None and small.interval and small.interval[0] < small.speedup < small.interval[1]


def test_text_has_a_column_for_every_heading(measured: Measurement):
    made = table([measured])
    assert {len(row) for row in made.rows} == {len(made.header)}
    assert made.rows[0][0] == "phone W4A8KV8"


def test_notes_tell_parity_and_memory(measured: Measurement):
    told = "\n".join(notes(measured))
    assert "7 of 8 answers and 8 of 8 choices are equal; 95.0 % of 20 next words" in told
    assert "1.2e-02 at most" in told and "weights 3.0 MiB" in told and "unknown" not in told


def test_all_forms_have_all_rows(measured: Measurement):
    both = [measured, paper.table()]
    lines = list(csv.DictReader(io.StringIO(figures(both).csv())))
    assert [int(line["tokens"]) for line in lines] == [100, 30, 576, 192, 128, 64]
    assert float(lines[1]["prefill"]) == 12 and lines[2]["speedup_low"] == ""
    text = table(both).markdown().splitlines()
    assert len({line.count("|") for line in text if line.startswith("|")}) == 1
    content = json.loads(json.dumps(results(both, {"python": "3"})))
    assert content["runtimes"][0]["rows"][1]["samples"]["prefill"] == [12, 13, 11]
    assert content["runtimes"][0]["parity"]["same_answer"] == 7


def test_the_page_has_every_row_note_and_fact(measured: Measurement, tmp_path: Path):
    write([measured], {"python": "3", "command": "evocomp bench edge"}, tmp_path)
    page = (tmp_path / "edge.html").read_text()
    for row in table([measured]).rows:
        assert all(f">{cell}</t" in page for cell in row)
    assert all(f">{note}</p>" in page for note in notes(measured))
    assert ">evocomp bench edge</pre>" in page and "<dt>python</dt><dd>3</dd>" in page
