"""How far methods follow the question, as a table and in the report of a comparison."""

from __future__ import annotations

from math import nan

from bench.evaluation.comparison import Comparison
from bench.evaluation.question import Sensitivity
from bench.evaluation.stats import Interval
from bench.report.question import of_comparison, table

HALF = Interval(0.5, 0.4, 0.6)
UNKNOWN = Interval(nan, nan, nan)


def test_a_row_has_means_and_half_widths() -> None:
    made = table({"cover": Sensitivity(UNKNOWN, UNKNOWN, UNKNOWN, HALF, UNKNOWN, UNKNOWN, 0)}, "title")
    assert made.rows == [["cover", "–", "–", "–", "0.50 ± 0.10", "–", "–"]]


def test_a_comparison_says_how_much_the_kept_tokens_of_two_questions_overlap(comparison: Comparison) -> None:
    made = of_comparison(comparison)  # its questions come in pairs about an image; choices are all alike
    assert made is not None
    assert [row[0] for row in made.rows][:2] == ["ours, 4, gqa", "ours, 4, vqav2"]
    assert {row[4] for row in made.rows} == {"1.00 ± 0.00"}
