"""Findings of cells made by hand, whose means are known, and what they come to beside the paper."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from bench.evaluation.cells import Cell, CellKey
from bench.evaluation.comparison import VANILLA
from bench.evaluation.stats import Interval
from bench.recipe.findings import Finding, findings
from bench.recipe.paper import Paper, Sign, orders, published, signs, verdict
from bench.tasks import GQA, TASKS

ALL = [1.0] * 8


def cells(make_outcome: Any, runs: dict[tuple[str, int], dict[int, list[float]]]) -> Any:
    return {
        place: {
            (keep, "gqa"): Cell(CellKey(place[0], keep, "gqa"), {}, {}, make_outcome("gqa", credit))
            for keep, credit in listed.items()
        }
        for place, listed in runs.items()
    }


def test_a_row_is_the_mean_over_its_seeds_in_their_order(make_outcome: Any) -> None:
    made = cells(
        make_outcome,
        {
            (VANILLA, 0): {16: ALL},
            ("best", 0): {4: ALL},
            ("row", 1): {4: [1] * 2 + [0] * 6},  # cells lie in no order of seeds
            ("row", 0): {4: [1] * 4 + [0] * 4},
        },
    )
    best, row = findings(made, [GQA()], {4: 64}, ["best", "row"], "best")
    assert (best.average, best.gap) == (100.0, None)
    assert row.seeds == (50.0, 25.0)
    assert row.average == row.scores["gqa"] == 37.5
    assert row.gap is not None and row.gap.difference == -62.5 and row.gap.high < 0
    assert row.gap.low < -99  # Student's interval: two seeds that are 25 points apart say little
    assert row.significant
    assert row.paper_keep == 64


def test_a_contrast_is_of_one_seed_where_a_network_is(make_outcome: Any) -> None:
    """A method that does not learn has no seeds to say anything about."""
    half = [1.0] * 4 + [0.0] * 4
    runs = {(VANILLA, 0): {16: ALL}, ("ours", 0): {4: ALL}, ("grid", 0): {4: half}, ("cover", 0): {4: ALL}}
    by_ours = findings(cells(make_outcome, runs), [GQA()], {4: 64}, ["ours", "grid"], "ours", ["ours"])
    assert [one.single for one in by_ours] == [True, True]
    by_grid = findings(
        cells(make_outcome, runs), [GQA()], {4: 64}, ["ours", "grid", "cover"], "grid", ["ours"]
    )
    assert [one.single for one in by_grid] == [True, False, False]
    several = runs | {("ours", 1): {4: ALL}}
    for one in findings(cells(make_outcome, several), [GQA()], {4: 64}, ["ours", "grid"], "ours", ["ours"]):
        assert not one.single
    sign = Sign("a", 64, -20.0, Interval(-1.0, -3.0, 1.0), False, True)
    assert sign.words == "same sign, not significant, one seed"


def test_a_table_s_tests_are_corrected_together_over_rows_and_budgets(make_outcome: Any) -> None:
    """Half of eight questions lost by each row: a difference is clear, and less so among four."""
    half = [1.0] * 4 + [0.0] * 4
    runs = {(VANILLA, 0): {16: ALL}, ("best", 0): {4: ALL, 2: ALL}}
    runs |= {(name, 0): {4: half, 2: half} for name in "ab"}
    found = findings(cells(make_outcome, runs), [GQA()], {4: 64, 2: 32}, ["best", "a", "b"], "best")
    tested = [one for one in found if one.gap]
    assert [(one.row, one.keep) for one in tested] == [("a", 4), ("b", 4), ("a", 2), ("b", 2)]
    assert all(0 < one.p < 0.05 / 4 for one in tested)
    assert [one.adjusted for one in tested] == pytest.approx([4 * one.p for one in tested])
    assert all(one.significant for one in tested)
    assert not replace(tested[0], p=0.01, adjusted=0.2).significant


def test_costs_are_of_the_row_in_percent_of_vanilla_s(make_outcome: Any) -> None:
    """A stage after the first of four layers leaves 2 of 16: (16 + 2 + 2 + 2) / 4 enter a layer."""
    whole = make_outcome("gqa", ALL, entering=[16] * 4, kept=range(16))
    late = make_outcome("gqa", [1.0] * 4 + [0.0] * 4, entering=[16, 2, 2, 2], kept=(3, 5))
    made = {
        (name, 0): {(keep, "gqa"): Cell(CellKey(name, keep, "gqa"), {}, {}, one)}
        for name, keep, one in ((VANILLA, 16, whole), ("late", 4, late))
    }
    (row,) = findings(made, [GQA()], {4: 64}, ["late"], None)
    assert (row.tokens, row.left) == (5.5, 2)
    assert row.flops == pytest.approx(100 * late.cost.prefill_flops / whole.cost.prefill_flops)
    assert row.vanilla is not None and row.vanilla.difference == -50


def test_a_row_that_lacks_a_task_has_neither_scores_nor_average(make_outcome: Any) -> None:
    made = {
        (VANILLA, 0): {
            (16, task): Cell(CellKey(VANILLA, 16, task), {}, {}, make_outcome(task, ALL))
            for task in ("gqa", "vqav2")
        },
        ("row", 0): {
            (4, "gqa"): Cell(CellKey("row", 4, "gqa"), {}, {}, make_outcome("gqa", ALL)),
            (4, "vqav2"): Cell(CellKey("row", 4, "vqav2"), {}, {}, None, "out of memory"),
            (2, "gqa"): Cell(CellKey("row", 2, "gqa"), {}, {}, None, "out of reach"),
        },
    }
    tasks = [GQA(), TASKS["vqav2"]()]
    found = findings(made, tasks, {4: 64, 2: 32, 1: 16}, ["row"], None)
    assert [(one.average, one.scores) for one in found] == [(None, {})] * 3
    assert [one.impossible for one in found] == ["out of memory", "out of reach", "it was not run"]


def test_what_could_not_be_run_says_why(make_outcome: Any) -> None:
    made = cells(make_outcome, {(VANILLA, 0): {16: ALL}})
    made["row", 0] = {(4, "gqa"): Cell(CellKey("row", 4, "gqa"), {}, {}, None, "out of reach")}
    (row,) = findings(made, [GQA()], {4: 64}, ["row"], None)
    assert (row.average, row.impossible) == (None, "out of reach")


@pytest.mark.parametrize(
    ("table", "row", "keep", "printed"),
    [
        ("table1", "FastV", 192, 96.9),
        ("table1", "EvoComp@0", 64, 94.9),
        ("table2", "EvoComp@0", 160, 92.1),
        ("table3", "EvoComp@2", 64, 94.4),
    ],
)
def test_shares_are_the_papers_printed_averages(table: str, row: str, keep: int, printed: float) -> None:
    paper = Paper.of(table)
    assert round(paper.share(row, keep, list(paper.vanilla)) or 0, 1) == printed


def test_the_papers_ablations_stand_with_their_columns() -> None:
    paper = Paper.of("table5")
    assert paper.score("CE only", 64, "mmbench-cn") == 41.3
    assert paper.score("EvoComp", 128, "mmbench") == 63.1
    assert set(published()["table1"]["vanilla"]) <= set(TASKS)
    with pytest.raises(ValueError, match="did you mean 'table"):
        Paper.of("table9")


def finding(row: str, average: float, gap: float | None, sure: bool = True) -> Finding:
    told = None if gap is None else Interval(gap, gap - 0.5, gap + 0.5)
    return Finding(row, 16, 64, {}, average, (average,), 16, 16, 20, None, told, 0.0, 0.0 if sure else 1.0)


def test_signs_say_same_opposite_and_how_sure() -> None:
    paper = Paper("M", 576, {"gqa": 50.0}, {64: {"ours": {"gqa": 50}, "a": {"gqa": 40}, "b": {"gqa": 30}}})
    found = [finding("ours", 90, None), finding("a", 80, -10), finding("b", 95, 5), finding("new", 70, -20)]
    listed = signs(found, paper, ["gqa"], "ours")
    assert [(one.row, one.paper, one.words) for one in listed] == [
        ("a", -20.0, "same sign, significant"),
        ("b", -40.0, "opposite sign, significant"),
    ]
    doubtful = Sign("a", 64, -20.0, Interval(-1.0, -3.0, 1.0), False)
    assert doubtful.words == "same sign, not significant"
    nothing = Sign("a", 64, -20.0, Interval(0.0, -1.0, 1.0), False)
    assert (nothing.words, nothing.agrees) == ("no difference", False)
    small = [Sign("a", 64, paper, Interval(-1.0, -3.0, -0.5), True).words for paper in (0.04, 0.06)]
    assert small == ["the paper has no difference", "opposite sign, significant"]
    told = verdict(listed, [], paper, "micro")
    assert "1 of 2 differences" in told[1] and "(not: b)" in told[1]
    assert "sizes of differences are not" in told[0]


def test_orders_are_rank_correlations() -> None:
    retain = {64: {name: {"gqa": score} for name, score in zip("abcd", (10, 20, 30, 40), strict=True)}}
    paper = Paper("M", 576, {"gqa": 50.0}, retain)
    same = [finding(name, share, None) for name, share in zip("abcd", (21, 41, 61, 81), strict=True)]
    (order,) = orders(same, paper, ["gqa"])
    assert (order.rows, order.kendall, order.spearman, order.off) == (4, 1.0, 1.0, 1.0)
    other = [finding(name, -share, None) for name, share in zip("abcd", (21, 41, 61, 81), strict=True)]
    (order,) = orders(other, paper, ["gqa"])
    assert order.kendall == -1.0
    assert orders(same[:1], paper, ["gqa"]) == []


def test_a_row_that_scores_where_vanilla_does_not_has_scores_and_no_share(make_outcome: Any) -> None:
    """Nor is another row tested against it."""
    runs = {(VANILLA, 0): {16: [0.0] * 8}, ("lucky", 0): {4: ALL}, ("grid", 0): {4: [0.0] * 8}}
    lucky, grid = findings(cells(make_outcome, runs), [GQA()], {4: 64}, ["lucky", "grid"], "lucky")
    assert (lucky.average, lucky.seeds, lucky.vanilla, lucky.scores) == (None, (), None, {"gqa": 100.0})
    assert lucky.impossible == "no share of zero: none scores 0 (gqa)"
    assert (grid.average, grid.gap, grid.p, grid.adjusted) == (100.0, None, 1.0, 1.0)
