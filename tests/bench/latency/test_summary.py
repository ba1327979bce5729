"""Statistics on numbers whose answer is plain."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bench.evaluation.times import Quantiles, Speedup
from bench.latency.request import LatencyCell, RequestTiming
from bench.latency.summary import COMPARED, STAGES, break_even, break_evens, rows, slower

WHOLE = LatencyCell("none", 16)


@pytest.mark.parametrize(("n", "known"), [(9, ()), (10, ("p10", "p90")), (100, ("p10", "p90", "p99"))])
def test_a_percentile_needs_enough_repetitions(n: int, known: tuple[str, ...]):
    found = Quantiles.of([float(number) for number in range(1, n + 1)])
    assert (found.n, found.least, found.most, found.median) == (n, 1, n, (n + 1) / 2)
    assert {name for name in ("p10", "p90", "p99") if getattr(found, name) is not None} == set(known)


def test_what_slows_both_in_a_round_cancels():
    vanilla = [1.0, 7.0, 2.0, 100.0, 3.0]
    found = Speedup.of(vanilla, [each / 2 for each in vanilla], seed=0)
    assert (found.times, found.low, found.high) == (2, 2, 2)


def test_an_interval_covers_what_varies_and_repeats_itself():
    ours = [1.0, 0.5, 2.0, 0.8, 1.3]
    found = Speedup.of([1.0] * 5, ours, seed=3)
    assert found.low < found.times == 1 < found.high
    assert found == Speedup.of([1.0] * 5, ours, seed=3)


def test_an_interval_is_of_medians_and_leaves_out_a_twentieth():
    """Of 17 rounds a drawn median is below the fifth smallest with 0.8 %, below the sixth with 3.6 %."""
    found = Speedup.of([float(number**2) for number in range(1, 18)], [1.0] * 17)
    assert (found.low, found.times, found.high) == (5**2, 9**2, 13**2)


def test_percentiles_rise():
    found = Quantiles.of([float(number) for number in range(101)])
    assert (found.p10, found.median, found.p90, found.p99) == (10, 50, 90, 99)


def test_stages_add_up_to_the_first_token():
    shot = RequestTiming(vision=1.0, selection=0.5, prefill=2.0, first=4.0, step=0.25, total=5.0, memory=None)
    parts = ("vision", "selection", "prefill", "other")
    assert sum(STAGES[stage](shot) for stage in parts) == STAGES["first token"](shot)
    assert STAGES["prefill with selection"](shot) == 2.5


@pytest.mark.parametrize(
    ("points", "tokens", "beyond"),
    [
        ([(48, 1.5), (16, 2.0), (96, 0.5)], 72, False),  # half way from 1.5 to 0.5
        ([(16, 0.9), (48, 0.8)], None, False),
        ([(16, 3.0), (48, 1.0)], 48, True),
        ([(16, 1.2), (32, 0.8), (48, 1.1)], 24, False),  # faster again further up does not count
        ([(16, 1.2)], 16, True),
    ],
)
def test_break_even_is_where_the_line_crosses_vanilla(points, tokens, beyond):
    assert break_even(points) == (tokens if tokens is None else pytest.approx(tokens), beyond)


def test_rows_are_paired_round_by_round(make_measured):
    fast, late = LatencyCell("fast", 4), LatencyCell("late", 4)
    found = make_measured({WHOLE: [4, 8, 40], fast: [2, 4, 20], late: [1]})
    whole, first, second = rows(found, [WHOLE, fast, late], "none", batch=2)
    assert whole.untouched and not whole.speedups
    assert set(first.speedups) == set(COMPARED)
    assert first.speedups["total"].times == pytest.approx(2)
    assert second.speedups["total"].times == pytest.approx(4)  # vanilla of its own round
    assert first.roofline == pytest.approx(2 * first.cost.ledger.prefill_flops / (4 / 2) / 1e9)


def test_rows_of_a_mode_are_held_against_vanilla_of_that_mode(make_measured):
    static, fast = LatencyCell("none", 16, "static"), LatencyCell("fast", 4, "static")
    found = make_measured({WHOLE: [8, 8], static: [4, 4], fast: [2, 2]})
    assert rows(found, [WHOLE, static, fast], "none", 1)[2].speedups["total"].times == pytest.approx(2)


def test_without_vanilla_there_is_no_speedup(make_measured):
    (row,) = rows(make_measured({LatencyCell("fast", 4): [2, 2]}), [WHOLE, LatencyCell("fast", 4)], "none", 1)
    assert not row.speedups and not row.untouched


def test_break_evens_name_every_method_and_stage(make_measured):
    cells = [WHOLE, LatencyCell("fast", 4), LatencyCell("fast", 12)]
    table = rows(
        make_measured(dict(zip(cells, [[4.0] * 3, [2.0] * 3, [8.0] * 3], strict=True))), cells, "none", 1
    )
    found = break_evens(table)
    assert [each.stage for each in found] == list(COMPARED)
    total = found[-1]
    assert total.tokens == pytest.approx(4 + 8 * (2 - 1) / (2 - 0.5)) and str(total) == "9"
    assert total.budgets == (4, 12)


def test_a_method_that_is_slower_at_few_tokens_says_why(make_measured, make_shot):
    slow, large = LatencyCell("slow", 4), LatencyCell("slow", 12)
    found = make_measured({WHOLE: [4.0] * 3, slow: [8.0] * 3, large: [8.0] * 3})
    for shots in found.rounds.rounds:
        shots[slow] = make_shot(8.0, selection=3.0, prefill=1.0)
    (said,) = slower(rows(found, [WHOLE, slow, large], "none", 1), tokens=16)
    assert said.startswith(
        "slow at 4 tokens is slower than vanilla (0.50 [0.50, 0.50]): selection +3000.00 ms"
    )
    assert "prefill -1000.00 ms" in said and "a token after the first +500.00 ms" in said


def test_only_a_clear_loss_at_a_third_of_the_tokens_is_told(make_measured):
    third, more, varied = LatencyCell("third", 5), LatencyCell("more", 6), LatencyCell("varied", 4)
    times = {WHOLE: [4.0] * 3, third: [8.0] * 3, more: [8.0] * 3, varied: [8.0, 5.0, 2.0]}
    found = rows(make_measured(times), list(times), "none", 1)
    assert found[3].speedups["total"].times == 0.8  # and its interval reaches beyond 1
    assert [line.partition(" ")[0] for line in slower(found, tokens=16)] == ["third"]
    assert [line.partition(" ")[0] for line in slower(found, tokens=15)] == ["third"]


def test_memory_is_the_most_of_all_rounds(make_measured):
    found = make_measured({WHOLE: [4.0] * 3})
    for shots, memory in zip(found.rounds.rounds, (5, None, 7), strict=True):
        shots[WHOLE] = replace(shots[WHOLE], memory=memory)
    assert rows(found, [WHOLE], "none", 1)[0].memory == 7
