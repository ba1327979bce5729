"""A recipe's page from findings made by hand: every number under the name of its column."""

from __future__ import annotations

import pytest

from bench.evaluation.stats import Interval
from bench.recipe.findings import Finding
from bench.recipe.forms import RecipeReport, header, lines, markdown
from bench.recipe.paper import Paper, Sign
from bench.recipe.schema import parse
from bench.report.table import BEYOND

GAP = Interval(-10.0, -12.0, -8.0)
PAPER = Paper("M", 576, {"gqa": 50.0}, {64: {"ours": {"gqa": 45.0}, "a": {"gqa": 40.0}}})


@pytest.fixture
def report() -> RecipeReport:
    rows = {"ours": {"method": "grid"}, "a": {"method": "random"}}
    recipe = parse(
        {"title": "t", "keep": [64], "of": 576, "rows": rows, "reference": "ours", "seeds": [0, 1]}, "t"
    )
    ours = Finding("ours", 16, 64, {"gqa": 54.0}, 90.0, (90.0,), 16.0, 15.0, 20.0)
    other = Finding("a", 16, 64, {"gqa": 48.0}, 80.0, (78.0, 82.0), 16.5, 14.0, 21.3, None, GAP, 0.001, 0.01)
    machine = {"cores": "2", "processor": "a CPU", "accelerator": "none", "torch": "2"}
    return RecipeReport(
        recipe, "c", {"model": "micro"}, machine, 144, ["gqa"], PAPER, {"gqa": 60.0}, findings=[ours, other],
        signs=[Sign("a", 64, -10.0, GAP, True)],
    )  # fmt: skip


def test_a_row_s_numbers_stand_under_their_names(report: RecipeReport) -> None:
    (first, (whole,)), (title, (ours, other)) = lines(report)
    assert (first, title) == ("all 144 visual tokens", "16 of 144 visual tokens (the paper's 64 of 576)")
    assert header(report) == [
        "row", "Avg. %", "paper", "gqa", "paper", "vs ours, 95 %", "sign", "seeds", "tokens/layer", "FLOPs %"
    ]  # fmt: skip
    assert whole == ["none", "100.0", "100.0", "60.0", "50.0", *[""] * 5]
    assert ours == ["ours", "90.0", "90.0", "54.0", "45.0", "", "", "", "16.0", "20.0"]
    assert other == ["a", "80.0", "80.0", "48.0", "40.0", f"-10.0 [-12.0, -8.0]{BEYOND}",
                     "same sign, significant", "78.0, 82.0", "16.5", "21.3"]  # fmt: skip


def test_losses_and_labels_stand_under_their_names(report: RecipeReport) -> None:
    gap = {"difference": 0.5, "low": 0.25, "high": 0.75}
    report.headroom = [{"row": "a", "keep": 16, "loss": 1.25, "above": gap}]
    report.labels = [{
        "row": "a", "kind": "best", "grouper": "grid", "strategy": None, "samples": 4, "shipped": 0,
        "evaluations per sample": 12.0, "loss of a random candidate": 3.0, "loss of the label": 1.0,
        "loss of all tokens": 2.0, "against the reference": {"difference": gap},
    }]  # fmt: skip
    page = markdown(report)
    assert "| loss, nats | above ours, 95 % |" in page
    assert "| a | 16 | 1.250 | +0.500 [+0.250, +0.750] |" in page
    assert "| evaluations | random candidate | label | all tokens | label vs reference, 95 % |" in page
    assert "| 4 | 12 | 3.000 | 1.000 | 2.000 | +0.500 [+0.250, +0.750] |" in page
