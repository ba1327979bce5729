"""MMStar: the authors' matcher and mean, and lmms-eval's."""

from __future__ import annotations

from typing import Any

import pytest

from bench.tasks.mmstar import MMStar, lmms_eval, official

OPTIONS = dict.fromkeys("ABCD", "")


@pytest.mark.parametrize(
    ("text", "authors", "lmms"),
    [
        ("A", "A", "A"), ("b. dog", "B", None), ("(C) car", "C", "C"), ("Option D", "D", "D"),
        ("The answer is B", "B", "B"), ("The best option is D.", None, "D"), ("dog", "D", None),
        ("An apple", "A", "A"), ("It is A or (B)", None, "B"), ("B is wrong, so C", "B", "B"),
        ("", None, None),
        ("选C", None, "C"),
    ],
)  # fmt: skip
def test_letters(text: str, authors: str | None, lmms: str | None) -> None:
    """The authors look at the first character, so that `dog` is D; lmms-eval takes the surest form."""
    assert (official(text, OPTIONS), lmms_eval(text, OPTIONS)) == (authors, lmms)


@pytest.fixture
def folder(files: Any) -> Any:
    axes = ["recognition"] * 3 + ["geometry"]
    rows = [
        {
            "index": n, "question": "Which?\nOptions: A: a cat, B: two, C: c, D: d", "answer": "A",
            "category": "math" if axis == "geometry" else "fine-grained perception", "l2_category": axis,
            "image": {"bytes": files.png(), "path": "x.png"},
        }
        for n, axis in enumerate(axes)
    ]  # fmt: skip
    files.parquet("mmstar/mmstar.parquet", rows)
    files.sizes(mmstar__val=4)
    return files


def test_the_authors_average_questions_and_lmms_eval_axes(folder: Any) -> None:
    """One of three questions of the one axis and all of the other: 2 / 4, and (1 / 3 + 1) / 2."""
    said = ["A", "B", "C", "A"]
    for protocol, score in (("llava", 50), ("lmms-eval", 100 * 2 / 3)):
        task = MMStar(protocol=protocol)  # type: ignore[arg-type]
        samples = task.load(folder.root)
        assert task.score(samples, said) == pytest.approx(score)
        assert task.subscores(samples, said)["geometry"] == 100
        assert task.subscores(samples, said)["fine-grained perception"] == pytest.approx(100 / 3)


def test_the_stored_question_has_its_options(folder: Any) -> None:
    letter = "Answer with the option's letter from the given choices directly"
    ask = f"Which?\nOptions: A: a cat, B: two, C: c, D: d\n{letter}"
    one = MMStar(protocol="llava").load(folder.root)[0]
    assert one.question == f"{ask}." and one.info["options"] == ("a cat", "two", "c", "d")
    assert MMStar(protocol="lmms-eval").load(folder.root)[0].question == ask  # no period
