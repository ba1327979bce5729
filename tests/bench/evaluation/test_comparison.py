"""What a table says follows from its cells: shares, tests, marks, costs, and what is left of easy tasks."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from bench.evaluation.cells import Cell, CellKey
from bench.evaluation.comparison import Comparison, Group, assemble, hard_shares
from bench.evaluation.stats import holm
from bench.report.results import records, results, summary
from bench.report.table import notes
from bench.tasks import GQA, VQAv2

MakeGroup = Callable[..., Group]
TASKS = [GQA(), VQAv2()]
N = 60
RIGHT = [1.0] * N


def missing(count: int, start: int = 0) -> list[float]:
    """All right but `count` from `start` on."""
    return [0.0 if start <= i < start + count else 1.0 for i in range(N)]


@pytest.fixture(scope="module")
def runs() -> dict[tuple[str, int], dict[str, Any]]:
    """`clear` is far below vanilla, `near` one question; `late` cannot reach 4 tokens; `own` is adaptive."""
    return {
        ("none", 16): {"gqa": RIGHT, "vqav2": missing(10)},
        ("clear", 4): {"gqa": missing(20), "vqav2": missing(30)},
        ("near", 4): {"gqa": missing(1), "vqav2": missing(10)},
        ("late", 4): {"gqa": "out of reach", "vqav2": "out of reach"},
        ("own", 4): {"gqa": missing(2), "vqav2": missing(12)},
        ("clear", 2): {"gqa": missing(30), "vqav2": missing(40)},
        ("near", 2): {"gqa": missing(12), "vqav2": missing(20)},
        ("late", 2): {"gqa": missing(13), "vqav2": "out of memory"},
    }


@pytest.fixture(scope="module")
def made(runs: Any, make_group: MakeGroup) -> Comparison:
    return assemble(TASKS, [make_group(runs)], (4, 2), reference="near", difficulty="clear")


def row(comparison: Comparison, method: str, keep: int) -> Any:
    return next(row for row in comparison.rows if (row.method, row.keep) == (method, keep))


def test_rows_come_by_budget_and_average_then_adaptive_and_incomplete_ones(made: Comparison) -> None:
    assert [(row.method, row.keep) for row in made.rows] == [
        ("none", 16), ("near", 4), ("clear", 4), ("own", 4), ("late", 4),
        ("near", 2), ("clear", 2), ("late", 2),
    ]  # fmt: skip


def test_the_average_is_the_mean_share_of_vanilla(made: Comparison) -> None:
    assert row(made, "clear", 4).average == pytest.approx((100 * 40 / 60 + 100 * 30 / 50) / 2)
    assert row(made, "late", 2).average is None
    assert row(made, "late", 2).scores == {"gqa": pytest.approx(100 * 47 / 60)}


def test_a_large_difference_is_significant_and_a_small_one_is_not(made: Comparison) -> None:
    clear, near = row(made, "clear", 4), row(made, "near", 4)
    assert clear.vanilla.significant and clear.vanilla.gap.high < 0
    assert (clear.vanilla.pooled.better, clear.vanilla.pooled.worse) == (0, 40)
    assert clear.vanilla.tasks["gqa"].significant
    assert not near.vanilla.significant and near.vanilla.tasks["gqa"].adjusted == 1
    assert clear.reference.rival == "near" and near.reference is None


def test_p_values_are_corrected_over_the_whole_table_rival_by_rival(made: Comparison) -> None:
    """Six rows are tested against vanilla, five of them with an average: the smallest p counts as often."""
    contrasts = [one.vanilla for one in made.rows if one.vanilla]
    assert len(contrasts) == 6
    smallest = min(contrasts, key=lambda one: one.pooled.p)
    assert smallest.pooled.adjusted == pytest.approx(6 * smallest.pooled.p)
    tested = [one for one in contrasts if one.gap]
    corrected = holm([one.p for one in tested])
    assert len(tested) == 5
    assert [one.adjusted for one in tested] == pytest.approx(corrected, rel=1e-9, abs=0)
    assert [(one.gap, one.adjusted) for one in contrasts if one.gap is None] == [(None, 1.0)]
    cells = [pairs for one in contrasts for pairs in one.tasks.values()]
    assert len(cells) == 11
    least = min(cells, key=lambda one: one.p)
    assert least.adjusted == pytest.approx(11 * least.p)
    references = [one.reference.pooled for one in made.rows if one.reference]
    assert len(references) == 4
    assert min(references, key=lambda one: one.p).adjusted == pytest.approx(
        4 * min(one.p for one in references)
    )


def test_the_same_difference_can_drown_in_a_larger_table(make_group: MakeGroup) -> None:
    """Seven discordant pairs, all to one side: p = 0.016, which two rows survive and eight do not."""

    def adjusted(rows: int) -> bool:
        methods = {("none", 16): {"gqa": RIGHT}}
        methods |= {(f"m{i}", 4): {"gqa": missing(7, start=7 * i)} for i in range(rows)}
        found = assemble(TASKS[:1], [make_group(methods)], (4,))
        return found.rows[1].vanilla.tasks["gqa"].significant  # type: ignore[union-attr]

    assert adjusted(2) and not adjusted(8)


def test_questions_about_one_image_count_as_one_in_all_tasks(make_outcome: Any) -> None:
    """Nine images, asked about in two tasks and lost in both: as much evidence as one task would give."""
    images = [f"image {number}" for number in range(N)]

    def against(shared: bool) -> Any:
        cells = {}
        for method, keep, credit in (("none", 16, RIGHT), ("worse", 4, missing(9))):
            for task in TASKS:
                key = CellKey(method, keep, task.name)
                made = make_outcome(task.name, credit, images=images if shared else None)
                cells[key] = Cell(key, {}, {}, made)
        return assemble(TASKS, [Group(cells, 16)], (4,)).rows[1].vanilla

    together, apart = against(True), against(False)
    assert together.pooled.p == pytest.approx(2 * 0.5**9) and apart.pooled.p == pytest.approx(2 * 0.5**18)
    assert together.tasks["gqa"].p == apart.tasks["gqa"].p
    width = [one.gap.high - one.gap.low for one in (together, apart)]
    assert width[0] == pytest.approx(2**0.5 * width[1], rel=0.1)


def test_a_margin_is_above_zero(made: Comparison, runs: Any, make_group: MakeGroup) -> None:
    for margin in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="choose a number of points above 0"):
            assemble(TASKS, [make_group(runs)], (4, 2), margin=margin)
    assert made.margin == 2


def test_an_average_is_significant_only_after_correction_and_without_zero(made: Comparison) -> None:
    contrast = row(made, "clear", 4).vanilla
    through_zero = replace(contrast, gap=replace(contrast.gap, high=0.1))
    corrected_away = replace(contrast, adjusted=0.2)
    assert contrast.significant
    assert not through_zero.significant and not corrected_away.significant
    assert not replace(contrast, gap=None).significant


def test_an_average_is_tested_as_an_average(make_group: MakeGroup) -> None:
    """One task falls on its few questions and another gains on its many: pooled, that looks like nothing."""
    few, many = [1.0] * 20, [1.0] * 400
    cells = make_group(
        {
            ("none", 16): {"gqa": few, "vqav2": [0.0] * 14 + many[14:]},
            ("uneven", 4): {"gqa": [0.0] * 14 + few[14:], "vqav2": many},
        }
    )
    contrast = assemble(TASKS, [cells], (4,)).rows[1].vanilla
    assert contrast and contrast.significant and contrast.gap and contrast.gap.high < 0
    assert (contrast.pooled.better, contrast.pooled.worse, contrast.pooled.significant) == (14, 14, False)


def test_costs_are_shares_of_vanilla_s(made: Comparison) -> None:
    whole, near = row(made, "none", 16), row(made, "near", 4)
    assert (whole.flops, whole.tokens, whole.left) == (100, 16, 16)
    assert (near.tokens, near.left) == (4, 4)
    cost = made.outcomes["near", 4, "gqa"].ledger.prefill_flops
    assert near.flops == pytest.approx(100 * cost / made.outcomes["none", 16, "gqa"].ledger.prefill_flops)


def test_tokens_are_a_mean_over_layers_and_left_are_those_after_the_last_stage(make_outcome: Any) -> None:
    """A stage after the first of four layers leaves 2 of 16: (16 + 2 + 2 + 2) / 4."""
    whole = make_outcome("gqa", RIGHT, entering=[16] * 4, kept=range(16))
    late = make_outcome("gqa", RIGHT, entering=[16, 2, 2, 2], kept=(3, 5))
    keys = [CellKey("none", 16, "gqa"), CellKey("late", 4, "gqa")]
    cells = {key: Cell(key, {}, {}, one) for key, one in zip(keys, (whole, late), strict=True)}
    found = assemble(TASKS[:1], [Group(cells, 16)], (4,))
    assert (found.rows[1].tokens, found.rows[1].left) == (5.5, 2)
    ledger: Any = records(found)[1]["ledger"]
    assert (ledger["average"], ledger["left"]) == (5.5, 2)


def test_empty_cells_keep_their_reasons(made: Comparison) -> None:
    assert made.impossible[("late", 4, "gqa")] == "out of reach"
    said = notes(made)
    assert "– late at 4: out of reach" in said
    assert "– late at 2: out of memory (vqav2)" in said
    assert "Adaptive, spends what it likes at any budget: own." in said


def test_what_vanilla_cannot_do_has_no_share(make_group: MakeGroup) -> None:
    found = assemble(
        TASKS[:1], [make_group({("none", 16): {"gqa": [0.0] * N}, ("near", 4): {"gqa": missing(3)}})], (4,)
    )
    assert found.rows[1].average is None and found.rows[1].scores["gqa"] == 95
    assert not found.rows[1].vanilla.significant  # type: ignore[union-attr]


def test_a_method_without_vanilla_is_refused(runs: Any, make_group: MakeGroup) -> None:
    without = {run: tasks for run, tasks in runs.items() if run[0] != "none"}
    with pytest.raises(ValueError, match="was run but not the untouched model, 'none': add it"):
        assemble(TASKS, [make_group(without)], (4, 2))


# Hard questions ---------------------------------------------------------------------------------------------


def test_hard_are_the_questions_that_the_difficulty_method_misses(made: Comparison) -> None:
    gqa = next(one for one in made.difficulty if (one.task, one.keep) == ("gqa", 4))
    assert (gqa.method, gqa.easy, gqa.hard) == ("clear", 40, 20)
    assert gqa.scores == {"none": 100, "clear": 0, "near": pytest.approx(95), "own": pytest.approx(90)}
    assert [(one.keep, one.task) for one in made.difficulty] == [
        (4, "gqa"), (4, "vqav2"), (2, "gqa"), (2, "vqav2"),
    ]  # fmt: skip


def test_hard_shares_are_of_vanilla_on_the_same_questions(made: Comparison) -> None:
    """vqav2 at 4: of 30 hard questions vanilla answers 20, near the same 20, own 18."""
    shares = hard_shares(made, 4)
    assert shares["none"] == 100 and shares["clear"] == 0
    assert shares["near"] == pytest.approx((95 + 100) / 2)
    assert shares["own"] == pytest.approx((90 + 90) / 2)
    assert "late" not in hard_shares(made, 2)


def test_a_task_whose_hard_questions_vanilla_misses_says_nothing_of_shares(make_group: MakeGroup) -> None:
    runs = {
        ("none", 16): {"gqa": missing(20), "vqav2": RIGHT},
        ("down", 4): {"gqa": missing(20), "vqav2": missing(20)},
        ("other", 4): {"gqa": RIGHT, "vqav2": missing(10)},
    }
    found = assemble(TASKS, [make_group(runs)], (4,), difficulty="down")
    assert [one.hard for one in found.difficulty] == [20, 20]
    assert hard_shares(found, 4) == {"none": 100, "down": 0, "other": 50}


def test_half_a_credit_makes_a_question_easy(make_group: MakeGroup) -> None:
    soft = [0.3, 0.49, 0.5, 0.6, 1.0, 0.0]
    cells = make_group({("none", 16): {"vqav2": [1.0] * 6}, ("down", 4): {"vqav2": soft}})
    (found,) = assemble(TASKS[1:], [cells], (4,), difficulty="down").difficulty
    assert (found.easy, found.hard) == (3, 3)
    assert found.scores["down"] == pytest.approx(100 * (0.3 + 0.49) / 3)


def test_without_hard_questions_there_is_nothing_to_score(make_group: MakeGroup) -> None:
    cells = make_group({("none", 16): {"gqa": RIGHT}, ("down", 4): {"gqa": RIGHT}})
    found = assemble(TASKS[:1], [cells], (4,), difficulty="down")
    assert (found.difficulty[0].hard, found.difficulty[0].scores) == (0, {})
    assert hard_shares(found, 4) == {}


def test_an_impossible_difficulty_method_leaves_that_budget_out(runs: Any, make_group: MakeGroup) -> None:
    found = assemble(TASKS, [make_group(runs)], (4, 2), difficulty="late")
    assert [(one.keep, one.task) for one in found.difficulty] == [(2, "gqa")]
    assert assemble(TASKS, [make_group(runs)], (4, 2), difficulty="absent").difficulty == ()


# Several protocols in one table -----------------------------------------------------------------------------


def test_groups_are_tested_inside_themselves_and_corrected_together(runs: Any, make_group: MakeGroup) -> None:
    other = {("none", 16): {"gqa": missing(30), "vqav2": missing(20)},
             ("clear", 4): {"gqa": missing(31), "vqav2": missing(20)}}  # fmt: skip
    groups = [make_group(runs), make_group(other, mark="[2]")]
    found = assemble(TASKS, groups, (4, 2), reference="near", difficulty="clear", mixed=["[2] batch"])
    assert [one.method for one in found.rows[:2]] == ["none", "none [2]"]
    moved = row(found, "clear [2]", 4)
    assert moved.vanilla.rival == "none [2]" and moved.reference is None
    assert moved.average == pytest.approx((100 * 29 / 30 + 100) / 2)
    contrasts = [one.vanilla.pooled for one in found.rows if one.vanilla]
    assert len(contrasts) == 7
    assert min(contrasts, key=lambda one: one.p).adjusted == pytest.approx(
        7 * min(one.p for one in contrasts)
    )
    assert {name for one in found.difficulty for name in one.scores} == {
        "none",
        "clear",
        "near",
        "own",
        "late",
    }


# JSON -------------------------------------------------------------------------------------------------------


def test_records_tell_a_cell_in_full(made: Comparison) -> None:
    listed = records(made)
    assert len(listed) == 2 * 6 + 1
    one = next(one for one in listed if (one["method"], one["keep"], one["task"]) == ("clear", 4, "gqa"))
    assert (one["score"], one["share"], one["n"]) == (pytest.approx(200 / 3), pytest.approx(200 / 3), 60)
    against = one["against"]
    assert isinstance(against, list) and [each["rival"] for each in against] == ["none", "near"]
    assert (against[0]["better"], against[0]["worse"], against[0]["significant"]) == (0, 20, True)
    assert (one["easy"], one["hard"], one["score on hard"]) == (40, 20, 0)
    ledger: Any = one["ledger"]
    assert ledger["entering"] == ledger["leaving"] == [4] * 4 and ledger["stages"] == [0]
    assert {"prefill_flops", "decode_flops", "kv_bytes", "selection_flops", "average"} <= ledger.keys()


def test_results_are_strict_json(made: Comparison) -> None:
    text = json.dumps(results(made, {"python": "3.11"}), allow_nan=False)
    back = json.loads(text)
    assert back["impossible"][0] == {"method": "late", "keep": 4, "task": "gqa", "why": "out of reach"}
    assert len(back["summary"]) == len(made.rows) and back["match"] == "equivalent"
    assert back["difficulty"][0]["scores"]["near"] == pytest.approx(95)
    told: Any = summary(row(made, "clear", 4), 2.0)["vanilla"]
    assert (told["significant"], told["equivalent"]) == (True, False)
    near: Any = summary(row(made, "near", 4), 3.0)["vanilla"]
    assert (near["significant"], near["equivalent"]) == (False, True)
    unclear: Any = summary(row(made, "near", 4), 0.1)["vanilla"]
    assert (unclear["significant"], unclear["equivalent"]) == (False, False)


def test_an_average_that_is_a_share_of_zero_has_its_reason(make_group: MakeGroup) -> None:
    runs = {
        ("none", 16): {"gqa": RIGHT, "vqav2": missing(N)}, ("lucky", 4): {"gqa": RIGHT, "vqav2": missing(50)},
        ("other", 4): {"gqa": RIGHT, "vqav2": missing(N)},
    }  # fmt: skip
    made = assemble(TASKS, [make_group(runs)], (4,))
    assert {row.method: row.average for row in made.rows} == {"none": 100, "other": 100, "lucky": None}
    assert "– Avg. %: there is no share of zero, none scores 0 (vqav2): lucky at 4." in notes(made)
