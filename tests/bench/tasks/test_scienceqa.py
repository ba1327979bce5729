"""ScienceQA: questions with an image, and two ways to read a letter."""

from __future__ import annotations

from typing import Any

import pytest

from bench.tasks.scienceqa import ScienceQA, llava, lmms_eval

OPTIONS = {"A": "neither", "B": "sample B", "C": "sample A"}


def problem(**other: Any) -> dict[str, Any]:
    return {
        "question": "Which is warmer?", "choices": ["neither", "sample B"], "answer": 1, "hint": "",
        "image": "image.png", "grade": "grade8", "subject": "natural science",
    } | other  # fmt: skip


@pytest.fixture
def folder(files: Any) -> Any:
    told = {
        "4": problem(image=None), "7": problem(hint="Two samples.", grade="grade2"), "9": problem(),
        "12": problem(),
    }  # fmt: skip
    files.json("scienceqa/problems.json", told)
    files.json("scienceqa/pid_splits.json", {"test": ["4", "7", "9"], "val": ["12"]})
    files.image("scienceqa/images/test/7/image.png")
    files.sizes(scienceqa__test=2)
    return files


def test_only_questions_of_the_split_that_have_an_image(folder: Any) -> None:
    for protocol in ("llava", "lmms-eval"):
        one, other = ScienceQA(protocol=protocol).load(folder.root)  # type: ignore[arg-type]
        tail = "A. neither\nB. sample B\nAnswer with the option's letter from the given choices directly."
        assert (one.id, other.id, one.answers) == ("7", "9", ("B",))
        assert one.question == f"Context: Two samples.\nWhich is warmer?\n{tail}"
        assert other.question == f"Which is warmer?\n{tail}"


@pytest.mark.parametrize(
    ("text", "scripts", "lmms"),
    [
        ("B", "B", "B"), ("b", None, "B"), ("B. sample B", "B", "B"), ("B.", None, "B"), ("B) x", None, None),
        ("The answer is C.", "C", None), ("The answer is A. The answer is B.", None, None), ("D", None, None),
        ("E. x", None, None), ("", None, None), ("sample B", None, None),
    ],
)  # fmt: skip
def test_letters(text: str, scripts: str | None, lmms: str | None) -> None:
    """LLaVA's script takes a letter, `X. ` or one "The answer is X."; lmms-eval a letter or `X.`."""
    assert (llava(text, OPTIONS), lmms_eval(text, OPTIONS)) == (scripts, lmms)


def test_subscores(folder: Any) -> None:
    task = ScienceQA(protocol="llava")
    found = task.subscores(task.load(folder.root), ["B", "dunno"])
    assert found == {
        "unreadable": 50, "natural science": 50, "grades 1-6": 100, "grades 7-12": 0, "context": 100,
        "no context": 0,
    }  # fmt: skip


def test_an_answer_that_is_no_choice_is_refused(folder: Any) -> None:
    folder.json("scienceqa/problems.json", {key: problem(answer=2) for key in ("4", "7", "9")})
    with pytest.raises(ValueError, match="the answer is 2, but there are 2 choices"):
        ScienceQA(protocol="llava").load(folder.root)
