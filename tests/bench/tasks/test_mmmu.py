"""MMMU: letters and open answers as the authors read them, of the first image."""

from __future__ import annotations

from typing import Any

import pytest

from bench.tasks.mmmu import MMMU, contains, lmms_eval, official

OPTIONS = {"A": "$6", "B": "$7", "C": "seven dollars", "D": "none"}


@pytest.mark.parametrize(
    ("text", "authors", "lmms"),
    [
        ("B", "B", "B"), ("(B)", "B", "B"), ("B.", "B", "B"), ("(A) is wrong, (B) is right", "B", "B"),
        ("A or B", "B", "B"), ("B. $7", None, "B"), ("x=B and so on", None, "B"),
        ("It costs seven dollars for each of the units", "C", "C"), ("seven dollars", None, None),
        ("", None, None),
    ],
)  # fmt: skip
def test_letters(text: str, authors: str | None, lmms: str | None) -> None:
    """`(X)`, then a lone X, the last one wins; the text of an option only in more than five words. What is
    None here is guessed at random there."""
    assert (official(text, OPTIONS), lmms_eval(text, OPTIONS)) == (authors, lmms)


@pytest.mark.parametrize(
    ("answers", "text", "right"),
    [
        (["24/7", "3.429"], "The answer is 3.43", True),  # equal to two decimals
        (["24/7"], "3.43", False),
        (["3.43"], "3.44", False),
        (["MgS"], "It is mgs.", True),
        (["Transformation"], "a transformation of data", True),
        (["C"], "cat", False),  # a single letter needs a space beside it
        (["C"], "option c is right", False),  # what follows the last "is" counts
        (["C"], "vitamin c", True),
        (["1000"], "so 1,000 units", True),
        (["8"], "7 + 1 = 8", True),
        (["8"], "8 apples\n9 is the result", False),  # the line with a key word wins
    ],
)
def test_open_answers(answers: list[str], text: str, right: bool) -> None:
    assert contains(answers, text) is right


@pytest.fixture
def folder(files: Any) -> Any:
    def row(id: str, question: str, options: str, answer: str, kind: str, color: str) -> dict[str, Any]:
        picture, none = {"bytes": files.png(color), "path": "1.png"}, {"bytes": b"", "path": ""}
        return {
            "id": id, "question": question, "options": options, "answer": answer, "question_type": kind,
            "image_1": picture, "image_2": none,
        }  # fmt: skip

    one = row("validation_Art_Theory_1", "<image 1> Who?", "['Ann', \"Bo's\"]", "B", "multiple-choice", "red")
    two = row("validation_Math_2", "<image 1> or <image 2>?", "[]", "['24/7', '3.429']", "open", "blue")
    files.parquet("mmmu/Art_Theory/validation-00000-of-00001.parquet", [one])
    files.parquet("mmmu/Math/validation-00000-of-00001.parquet", [two])
    files.sizes(mmmu__val=2)
    return files


def test_prompts_of_both_protocols(folder: Any) -> None:
    letter = "Answer with the option's letter from the given choices directly."
    one, two = MMMU(protocol="llava").load(folder.root)
    assert one.question == f"<image 1> Who?\n\n(A) Ann\n(B) Bo's\n\n\n{letter}"
    assert two.question.endswith("?\n\nAnswer the question using a single word or phrase.")
    assert two.image.getpixel((0, 0)) != one.image.getpixel((4, 4)) and two.answers == ("24/7", "3.429")
    one, two = MMMU(protocol="lmms-eval").load(folder.root)
    assert one.question == f"<image 1> Who?\nA. Ann\nB. Bo's\n\n{letter}"
    assert two.answers == ("['24/7', '3.429']",)


def test_subscores_by_subject_field_and_number_of_images(folder: Any) -> None:
    task = MMMU(protocol="llava")
    samples = task.load(folder.root)
    found = task.subscores(samples, ["B", "so 5"])
    assert found["Art_Theory"] == found["Art and Design"] == found["one image"] == 100
    assert found["Math"] == found["several images"] == found["open"] == found["unreadable"] == 0
    assert task.score(samples, ["what?", "3.429"]) == 50
    assert task.subscores(samples, ["what?", "3.429"])["unreadable"] == 100  # of those with options


def test_options_that_are_no_list_are_refused(folder: Any) -> None:
    folder.parquet(
        "mmmu/Math/validation-00000-of-00001.parquet",
        [{"id": "validation_Math_2", "question": "?", "options": "__import__('os')", "answer": "A",
          "question_type": "multiple-choice", "image_1": {"bytes": folder.png(), "path": ""}}],
    )  # fmt: skip
    with pytest.raises(ValueError, match="the options are no list of texts"):
        MMMU(protocol="llava").load(folder.root)
