"""Measured speed-ups beside the paper's, which are for one share of the tokens each."""

from __future__ import annotations

import json

from bench.recipe.measure import Latencies, Runtimes, _edge, _latency


def test_the_papers_speedups_of_figure_4_are_for_evocomp_at_an_eighteenth() -> None:
    """160 of 2,880 tokens are 8 of 144."""
    speedups = {name: {"times": 3.0} for name in ("prefill with selection", "first token", "total")}
    rows = [{"method": method, "keep": keep, "speedups": speedups}
            for method, keep in (("evocomp", 8), ("evocomp", 40), ("fastv", 8))]  # fmt: skip
    rows.append({"method": "none", "keep": 144, "speedups": {}})
    told = list(_latency(Latencies.model_validate_json(json.dumps({"rows": rows})), 144))
    assert [row[:2] for row in told[::2]] == [("evocomp", 8), ("evocomp", 40), ("fastv", 8)]
    assert [row[2:] for row in told[:2]] == [("prefill with selection", 3.0, 4.1), ("total", 3.0, 2.6)]
    assert {row[4] for row in told[2:]} == {None}


def test_the_papers_speedups_of_table_4_are_for_the_same_share_of_tokens() -> None:
    rows = [{"keep": keep, "speedup": 1.5} for keep in (48, 16, 20)]  # 192, 64 and 80 of 576
    runtimes = json.dumps({"runtimes": [{"runtime": "ort", "rows": rows}]})
    told = _edge(Runtimes.model_validate_json(runtimes), 144)
    assert [row[1:] for row in told] == [
        (48, "total", 1.5, 1.6), (16, "total", 1.5, 2.0), (20, "total", 1.5, None)
    ]  # fmt: skip
