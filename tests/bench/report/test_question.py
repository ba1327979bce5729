"""How far methods follow the question, as a table and in the report of a comparison."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bench.evaluation.comparison import Comparison
from bench.evaluation.origin import Origin
from bench.evaluation.question import Sensitivity
from bench.evaluation.stats import Interval
from bench.report.page import Page, html
from bench.report.question import FILE, by_family, of_comparison, read_saved, save, table

HALF = Interval(0.5, 0.4, 0.6)


def test_a_row_has_means_and_half_widths() -> None:
    made = table({"cover": Sensitivity(None, None, None, HALF, None, None, 0)}, "title")
    assert made.rows == [["cover", "–", "–", "–", "0.50 ± 0.10", "–", "–"]]


def test_aucs_stand_by_family() -> None:
    one = Sensitivity(HALF, None, None, None, None, None, 1, {"color": HALF})
    made = by_family({"a": one, "b": replace(one, families={"read": HALF})}, "title")
    assert made.header == ("AUC, own question", "color", "read")
    assert made.rows == [["a", "0.50 ± 0.10", "–"], ["b", "–", "0.50 ± 0.10"]]


def test_a_comparison_says_how_much_the_kept_tokens_of_two_questions_overlap(comparison: Comparison) -> None:
    found = of_comparison(comparison)  # its questions come in pairs about an image; choices are all alike
    assert [*found][:2] == ["ours, 4, gqa", "ours, 4, vqav2"]
    assert {one.overlap for one in found.values()} == {Interval(1, 1, 1)}


def test_a_report_tells_of_questions_when_the_samples_are_no_longer_there(
    comparison: Comparison, tmp_path: Path
) -> None:
    found = of_comparison(comparison)
    save(found, tmp_path)
    assert read_saved(tmp_path) == found
    save({}, tmp_path)  # compared again, without such a task
    assert read_saved(tmp_path) == {}
    page = Page(replace(comparison, samples={}), Origin("A title", {}), {}, {}, {}, questions=found)
    assert "Does the choice follow the question?" in html(page)
    assert "Does the choice follow the question?" not in html(replace(page, questions={}))


def test_a_damaged_file_of_questions_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text('{"rows": {"ours": {"own": 3}}}')
    with pytest.raises(ValueError, match="questions.json.*compare again"):
        read_saved(tmp_path)
    assert read_saved(tmp_path / "elsewhere") == {}
