"""AI2D: the images of test, and two ways to read a letter."""

from __future__ import annotations

from typing import Any

import pytest

from bench.tasks.ai2d import AI2D, lmms_eval

OPTIONS = {"A": "larva", "B": "egg", "C": "pupa", "D": "none"}


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", "B"), ("b", "B"), ("B.", "B"), (" C. pupa", "C"), ("(D)", "D"), ("A, larva", None),
        ("The answer is A", None), ("E. x", None), ("egg", None),
    ],
)  # fmt: skip
def test_lmms_evals_letters(text: str, letter: str | None) -> None:
    """`X.` at the start; else the whole answer without punctuation and case."""
    assert lmms_eval(text, OPTIONS) == letter


def test_only_images_of_test_are_asked_about(files: Any) -> None:
    for number in (0, 3, 12):
        told = {"answerTexts": ["x", "y"], "correctAnswer": 1, "questionId": f"{number}.png-0"}
        files.json(
            f"ai2d/questions/{number}.png.json",
            {"imageName": f"{number}.png", "questions": {"Which is it?": told}},
        )
    (files.root / "ai2d/ai2d_test_ids.csv").write_text("12\n3\n")
    files.sizes(ai2d__test=2)
    task = AI2D(protocol="llava")
    samples = task.load(files.root)
    assert [one.id for one in samples] == ["3.png-0", "12.png-0"]
    tail = "A. x\nB. y\nAnswer with the option's letter from the given choices directly."
    assert samples[0].question == f"Which is it?\n{tail}" and samples[0].answers == ("B",)
    assert task.images(samples) == ("ai2d/3.png", "ai2d/12.png")
    assert task.score(samples, ["The answer is B", "x"]) == 50  # LLaVA's way: as MMBench's matcher
