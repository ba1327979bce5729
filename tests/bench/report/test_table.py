"""The table in all its forms: the paper's rounding, marks, dashes with a reason."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable
from dataclasses import replace

import pytest

from bench.evaluation.comparison import Comparison, ComparisonRow, Contrast, Difficulty
from bench.evaluation.evaluate import Outcome
from bench.evaluation.stats import Interval, Pairs
from bench.report.forms import csv_text, latex, markdown
from bench.report.table import Block, blocks, hard_rows, header, headlines, marks, notes, table_rows
from compress.keep import Ratio

TASKS = ("gqa", "vqav2")
CLEAR, CHANCE = Pairs(1, 19, 0.001, 0.002), Pairs(3, 4, 0.9, 1.0)


def contrast(rival: str, gap: float, clear: bool, gqa: bool = True, vqav2: bool = False) -> Contrast:
    """A gap of the average, and whether it and the two tasks differ by more than chance."""
    wide = 2.0 if clear else 30.0
    told = {"gqa": CLEAR if gqa else CHANCE, "vqav2": CLEAR if vqav2 else CHANCE}
    p = 0.003 if clear else 0.7
    return Contrast(rival, Interval(gap, gap - wide, gap + wide), p / 2, p, CLEAR if clear else CHANCE, told)


def scored(method: str, keep: int, average: float, **more: object) -> ComparisonRow:
    scores = {"gqa": average + 0.25, "vqav2": average - 1}
    return ComparisonRow(method, keep, scores, average, keep + 0.04, keep, 8.06 * keep, **more)  # type: ignore[arg-type]


@pytest.fixture
def comparison() -> Comparison:
    whole = ComparisonRow("none", 16, {"gqa": 88.84, "vqav2": 91.0}, 100.0, 16.0, 16.0, 100.0, untouched=True)
    return Comparison(
        TASKS,
        (
            whole,
            scored("ours", 4, 90.0, vanilla=contrast("none", -10, True), trained=True),
            scored("rival_1", 4, 80.0, vanilla=contrast("none", -20, True),
                   reference=contrast("ours", -10, True)),
            scored("own", 4, 79.0, vanilla=contrast("none", -21, False, gqa=False),
                   reference=contrast("ours", -11, False, gqa=False), adaptive=True),
            ComparisonRow("late", 4, {}, None, None, None, None),
            scored("rival_1", 2, 70.0, vanilla=contrast("none", -30, True),
                   reference=contrast("ours", 3, False)),
            scored("ours", 2, 67.0, vanilla=contrast("none", -33, True)),
        ),
        {},
        reference="ours",
        impossible={("late", 4, task): "keep=4 is out of reach" for task in TASKS},
        difficulty=(
            Difficulty("gqa", 4, "down", 40, 20, {"none": 90.0, "down": 0.0, "ours": 45.0, "own": 90.0}),
            Difficulty("vqav2", 4, "down", 60, 0, {}),
        ),
    )  # fmt: skip


def test_rows_have_the_header_s_columns_and_the_paper_s_single_decimal(comparison: Comparison) -> None:
    costs = ["tokens/layer", "left", "FLOPs %", "vs none, 95 %", "vs ours, 95 %"]
    assert header(comparison) == ["method", "keep", "gqa", "vqav2", "Avg. %", *costs]
    rows = table_rows(comparison)
    assert rows[0] == ["none", "16", "88.8", "91.0", "100.0", "16.0", "16.0", "100.0", "", ""]
    assert rows[1][:8] == ["ours (one seed)", "4", "90.2", "89.0", "90.0", "4.0", "4.0", "32.2"]
    assert rows[1][8:] == ["-10.0 [-12.0, -8.0]*", ""]
    assert rows[2][8:] == ["-20.0 [-22.0, -18.0]*", "-10.0 [-12.0, -8.0]*"]
    assert rows[3][8:] == ["-21.0 [-51.0, +9.0]", "-11.0 [-41.0, +19.0]"]  # within chance
    assert {len(row) for row in rows} == {10}


def test_marks_are_on_averages_whose_whole_interval_is_within_the_margin(comparison: Comparison) -> None:
    """However large the table is: a wide interval around no difference shows no equivalence."""
    _, ours, rival, own, late, *_ = comparison.rows
    assert [marks(comparison, row) for row in (ours, rival, own, late, comparison.rows[0])] == [""] * 5
    near = replace(own, vanilla=contrast("none", -0.5, True), reference=contrast("ours", 1.9, True))
    assert marks(comparison, near) == "" and marks(replace(comparison, margin=2.6), near) == "°"
    assert marks(replace(comparison, margin=4), near) == "°†"
    silent = replace(near, vanilla=contrast("none", 0, False), reference=None)
    assert marks(comparison, silent) == ""
    said = notes(replace(comparison, margin=4, rows=(*comparison.rows, near)))
    assert (
        "Equivalent to ° none or † ours: the whole 95 % interval of Avg. % is within 4 points of it." in said
    )


def test_a_trained_network_of_one_seed_says_so(comparison: Comparison) -> None:
    assert any(line.startswith("One seed: ours is one network, trained once") for line in notes(comparison))
    assert "| ours (one seed) |" in markdown(comparison) and "ours (one seed) &" in latex(comparison)


def test_what_is_missing_is_a_dash_with_its_reason_below(comparison: Comparison) -> None:
    assert table_rows(comparison)[4] == ["late", "4", *"––––––", "", ""]
    assert "– late at 4: keep=4 is out of reach" in notes(comparison)


def test_an_adaptive_row_says_so(comparison: Comparison) -> None:
    assert table_rows(comparison)[3][0] == "own (adaptive)"
    assert "Adaptive, spends what it likes at any budget: own." in notes(comparison)


def test_notes_say_what_budgets_are_and_explain_only_marks_that_are_there(comparison: Comparison) -> None:
    said = notes(replace(comparison, match="flops"))
    assert said[0].startswith("Budgets are prefill FLOPs, own choosing included")
    assert said[1].startswith("Intervals are paired bootstrap intervals over images")
    assert "* a significant difference" in said[1]
    assert not any(line.startswith("Equivalent") for line in said)
    plain = replace(comparison, rows=comparison.rows[:1], impossible={})
    assert notes(plain) == ["Budgets are visual tokens entering a decoder layer, mean over layers."]


def test_notes_count_the_answers_and_images_that_scores_are_made_of(
    comparison: Comparison, make_outcome: Callable[..., Outcome]
) -> None:
    asked = make_outcome("gqa", [1, 0] * 600, images=[f"{number // 2}" for number in range(1200)])
    cells = {("none", 16, "gqa"): asked, ("ours", 4, "gqa"): make_outcome("gqa", [1])}
    assert "Answers per task (images): gqa 1,200 (600)." in notes(replace(comparison, outcomes=cells))
    assert not any(line.startswith("Answers") for line in notes(comparison))


def test_notes_warn_of_few_images_and_of_a_model_that_scores_nothing(
    comparison: Comparison, make_outcome: Callable[..., Outcome]
) -> None:
    def said(credits: list[float]) -> str:
        return "\n".join(
            notes(replace(comparison, outcomes={("none", 16, "gqa"): make_outcome("gqa", credits)}))
        )

    assert "Few images (2): take intervals" in said([1, 0])
    assert "scores 0 on gqa: shares of it say nothing" in said([0, 0]) and "scores 0" not in said([1, 0])
    assert "Few images" not in said([1, 0] * 10)


def test_markdown_has_a_block_per_budget_bold_winners_and_notes(comparison: Comparison) -> None:
    table, below, hard = markdown(comparison).split("\n\n")
    cells = [re.split(r"(?<!\\)\|", line)[1:-1] for line in table.splitlines()]
    assert {len(row) for row in cells} == {9}
    lines = table.splitlines()
    assert "| *4 of 16 visual tokens (−75.0 %)* |" in lines[4]
    start = "| ours (one seed) | **90.2** | **89.0** | **90.0** | 4.0 | 4.0 | 32.2 |"
    assert lines[5] == rf"{start} -10.0 [-12.0, -8.0]\* |  |"
    assert lines[6].startswith(r"| rival\_1 | 80.2 | 79.0 | 80.0 |")
    assert "**" not in lines[3]  # vanilla competes with nobody
    assert below.startswith("- Budgets are")
    assert hard.splitlines()[2] == "| questions down misses | 4 | 20 of 60 | 0 of 60 |  |"


def test_csv_has_plain_figures_bounds_p_values_and_notes(comparison: Comparison) -> None:
    rows = list(csv.DictReader(io.StringIO(csv_text(comparison))))
    assert len(rows) == 7
    ours, rival, own, late = rows[1:5]
    assert (rival["method"], rival["average"], rival["vqav2"], rival["left"]) == (
        "rival_1",
        "80.0",
        "79.0",
        "4.0",
    )
    assert (rival["vs ours"], rival["vs ours low"], rival["vs ours high"]) == ("-10.0", "-12.0", "-8.0")
    assert (rival["p ours"], rival["equivalent to ours"], rival["gqa p ours"]) == ("0.003", "false", "0.002")
    wide = list(csv.DictReader(io.StringIO(csv_text(replace(comparison, margin=99)))))
    assert wide[2]["equivalent to ours"] == "true"
    assert (ours["one seed"], rival["one seed"]) == ("true", "false")
    assert (rival["pooled p ours"], own["p none"]) == ("0.002", "0.7")
    assert (own["equivalent to none"], own["vqav2 p none"], own["adaptive"]) == ("false", "1", "true")
    assert (ours["vs ours"], rows[0]["vs none"]) == ("", "")
    assert (late["gqa"], late["average"], late["note"]) == ("", "", "keep=4 is out of reach")
    assert (ours["gqa hard"], ours["gqa hard n"], ours["gqa easy n"]) == ("45.0", "20", "40")
    assert (ours["vqav2 hard"], ours["vqav2 hard n"], rows[5]["gqa hard n"]) == ("", "0", "")


def test_latex_is_escaped_and_every_line_has_all_columns(comparison: Comparison) -> None:
    text = latex(comparison)
    assert r"rival\_1 & 80.2 & 79.0 & 80.0" in text
    assert r"ours (one seed) & \textbf{90.2} & \textbf{89.0} & \textbf{90.0}" in text
    assert r"$-$10.0 [$-$12.0, $-$8.0]*" in text
    assert r"\textbf{90.0$^\circ$} & " in latex(replace(comparison, margin=13))
    assert "late & -- & --" in text
    main, hard = text.split("\n\n")
    assert {line.count("&") for line in main.splitlines() if " & " in line} == {8}
    assert {line.count("&") for line in hard.splitlines() if " & " in line} == {4}
    assert not re.search(r"(?<!\\)[%_]", text)
    for one in (main, hard):
        assert one.count(r"\begin{tabular}") == one.count(r"\end{tabular}") == 1
    assert text.isascii()


def test_hard_rows_are_ranked_under_their_counts(comparison: Comparison) -> None:
    rows = hard_rows(comparison)
    assert [row[0] for row in rows] == ["questions down misses", "none", "own", "ours", "down"]
    assert rows[0] == ["questions down misses", "4", "20 of 60", "0 of 60", ""]
    assert rows[3] == ["ours", "4", "45.0", "–", "50.0"]


def test_headlines_name_the_first_the_reference_and_the_interval(comparison: Comparison) -> None:
    first, second = headlines(comparison)
    assert first == (
        "ours keeps 90.0 % of the untouched model's score with 4 of 16 visual tokens; "
        "rival_1 80.0 % (ours ahead by +10.0 [+8.0, +12.0])."
    )
    assert second == (
        "rival_1 keeps 70.0 % of the untouched model's score with 2 of 16 visual tokens; "
        "ours 67.0 % (rival_1 ahead by +3.0 [-27.0, +33.0], not significant)."
    )


def test_figures_that_look_equal_are_both_best(comparison: Comparison) -> None:
    whole, ours, rival, *_ = comparison.rows
    even = blocks(replace(comparison, rows=(whole, ours, replace(rival, average=89.96))))[1]
    assert [even.best(row, "average") for row in even.rows] == [True, True]


def test_a_row_without_a_budget_competes_with_nobody(comparison: Comparison) -> None:
    _, ours, rival, own, *_ = comparison.rows
    high = replace(own, average=99.0, scores={"gqa": 99.0, "vqav2": 99.0})
    block = blocks(replace(comparison, rows=(comparison.rows[0], ours, high, rival)))[1]
    assert [block.best(row, "average") for row in block.rows] == [True, False, False]
    assert block.other == rival
    alone = replace(comparison, rows=(comparison.rows[0], high))
    assert headlines(alone) == []


def test_a_mixed_table_is_marked_in_every_form(comparison: Comparison) -> None:
    mixed = replace(comparison, mixed=("[2] other: batch is 16 in one and 8 in other",))
    assert notes(mixed)[0].startswith("Mixed protocols, not comparable: [2] other")
    assert markdown(mixed).startswith("**MIXED PROTOCOLS**\n\n| method |")
    assert r"\multicolumn{9}{c}{\textbf{MIXED PROTOCOLS}} \\" in latex(mixed)
    assert "Mixed protocols" in markdown(mixed) and "Mixed protocols" in latex(mixed)
    assert "MIXED" not in markdown(comparison) + latex(comparison)
    assert all("batch is 16" in row["note"] for row in csv.DictReader(io.StringIO(csv_text(mixed))))


def test_without_a_reference_there_is_one_column_of_gaps(comparison: Comparison) -> None:
    rows = tuple(replace(row, reference=None) for row in comparison.rows)
    alone = replace(comparison, rows=rows, reference=None)
    assert header(alone)[-1] == "vs none, 95 %"
    assert "†" not in markdown(alone)
    assert {len(row) for row in table_rows(alone)} == {9}


def test_a_ratio_stands_in_the_heading_as_it_was_asked_for() -> None:
    block = Block(Ratio("11.1%"), 576, ())
    assert block.budget == "11.1% of each image's visual tokens"
    assert Block(64, 576, ()).budget == "64 of 576 visual tokens"


def test_a_headline_tells_no_lead_that_was_not_tested(comparison: Comparison) -> None:
    """In a mixed table the second row may have the reference of another protocol as its rival."""
    whole, ours, rival, *_ = comparison.rows
    theirs = contrast("ours [2]", -10, True)
    rows = whole, replace(ours, vanilla=None), replace(rival, method="rival_1 [2]", reference=theirs)
    mixed = replace(comparison, rows=rows)
    assert blocks(mixed)[1].between is None
    assert headlines(mixed)[0].endswith("; rival_1 [2] 80.0 %.")
