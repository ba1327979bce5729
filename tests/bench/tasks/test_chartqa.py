"""ChartQA: relaxed accuracy by its definition, and two kinds of questions."""

from __future__ import annotations

from typing import Any

import pytest

from bench.tasks.chartqa import ChartQA, relaxed


@pytest.mark.parametrize(
    ("said", "answer", "right"),
    [
        ("105", "100", True), ("95", "100", True), ("105.1", "100", False), ("94.9", "100", False),
        ("-10.4", "-10", True), ("10", "-10", False), ("0.57", "0.57", True), ("12%", "0.12", True),
        ("12", "12%", False), ("0", "0", True), ("0.0", "0", False), ("Yes", "yes", True),
        ("yes.", "yes", False),
        ("1,000", "1000", False), ("", "5", False), ("2010", "2009", True),
    ],
)  # fmt: skip
def test_a_number_may_be_off_by_five_percent(said: str, answer: str, right: bool) -> None:
    """|said - answer| / |answer| <= 0.05 by hand; of zero, and of what is no number, the text must be equal.
    The definition covers years too, so 2010 passes for 2009."""
    assert relaxed(said, answer) is right


@pytest.fixture
def folder(files: Any) -> Any:
    rows = [{"imgname": f"{n}.png", "query": "How many?", "label": str(n)} for n in (4, 5)]
    files.json("chartqa/test/test_human.json", rows)
    files.json("chartqa/test/test_augmented.json", rows[:1])
    files.sizes(chartqa__test=3)
    return files


def test_both_kinds_are_asked_and_share_their_charts(folder: Any) -> None:
    task = ChartQA(protocol="llava")
    samples = task.load(folder.root)
    assert [one.id for one in samples] == ["human-0", "human-1", "augmented-0"]
    assert samples[0].question == "How many?\nAnswer the question using a single word or phrase."
    assert task.images(samples) == ("chartqa/4.png", "chartqa/5.png", "chartqa/4.png")
    assert task.subscores(samples, ["4", "4", "4.1"]) == {"augmented": 100, "human": 50}
    lmms = ChartQA(protocol="lmms-eval").load(folder.root)[0]
    assert lmms.question == "How many?\nAnswer the question with a single word."
