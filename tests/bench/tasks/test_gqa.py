"""GQA: exact equality after the protocol's own tidying, and the sub-scores of the official tool."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bench.tasks.gqa import GQA, distribution, matches
from compress.samples import Sample

SHORT = "\nAnswer the question using a single word or phrase."


def row(question: str, answer: str, **more: Any) -> dict[str, Any]:
    return {
        "question": question, "answer": answer, "imageId": "n1", "isBalanced": True,
        "groups": {"global": "color", "local": None}, "entailed": [], "equivalent": [],
        "types": {"structural": "query", "semantic": "attr", "detailed": "x"},
        "semantic": [{"operation": "select"}] * 2,
    } | more  # fmt: skip


VERIFY = {"structural": "verify", "semantic": "rel"}


@pytest.fixture
def folder(files: Any) -> Any:
    files.json(
        "gqa/testdev_balanced_questions.json",
        {
            "q1": row("Which color is it?", "red", entailed=["q1", "q3"]),
            "q2": row("Which color has the car?", "blue"),
            "q3": row("Is it red?", "yes", types=VERIFY, groups={"global": None}),
            "q4": row("Is it blue?", "no", types=VERIFY, isBalanced=False, groups=None),
        },
    )
    files.image("gqa/images/n1.jpg")
    files.sizes(gqa__testdev=4)
    return files


def test_only_trailing_periods_and_capitals_are_forgiven() -> None:
    """Trap 8: nothing else under llava, no article is stripped; lmms-eval takes punctuation off both."""
    assert matches("red", "Red.", "llava") and matches("red", "red...", "llava")
    assert not matches("red", "the red", "llava") and not matches("red", "red!", "llava")
    assert not matches("t shirt", "t-shirt", "llava") and not matches("t-shirt", "t shirt", "lmms-eval")
    assert matches("t-shirt", "Tshirt", "lmms-eval") and not matches("red", "a red", "lmms-eval")


def test_official_files_prompt_and_score(folder: Any) -> None:
    task = GQA(protocol="llava")
    samples = task.load(folder.root)
    assert [s.id for s in samples] == ["q1", "q2", "q3", "q4"]
    assert samples[0].question == "Which color is it?" + SHORT
    assert task.score(samples, ["red", "Blue.", "no", "yes"]) == pytest.approx(200 / 3)  # q4 is not balanced
    assert GQA(protocol="lmms-eval").max_new_tokens == 16


def test_subscores_of_the_official_tool(folder: Any) -> None:
    task = GQA(protocol="llava")
    samples = task.load(folder.root)
    found = task.subscores(samples, ["Red.", "green", "no", "no"])
    assert (found["open"], found["binary"], found["query"], found["verify"]) == (50, 0, 50, 0)
    assert (found["attr"], found["rel"]) == (50, 0)
    assert (found["4 words"], found["5 words"], found["3 words"], found["2 steps"]) == (
        100,
        0,
        0,
        pytest.approx(100 / 3),
    )
    assert found["consistency"] == 0  # q1 is right, and q3, which it entails, is wrong
    assert task.subscores(samples, ["red", "green", "yes", "no"])["consistency"] == 100
    assert "consistency" not in task.subscores(samples, ["green", "blue", "yes", "no"])  # only of right ones
    assert "validity" not in found  # there is no choices file


def test_validity_where_the_choices_are_known(folder: Any) -> None:
    choices = {"valid": ["red", "blue", "green"], "plausible": ["red"]}
    folder.json("gqa/testdev_choices.json", {"q1": choices, "q2": choices})
    task = GQA(protocol="llava")
    found = task.subscores(task.load(folder.root), ["red", "Blue.", "x", "x"])
    assert found["validity"] == 100 and found["plausibility"] == 50


def test_distribution_is_a_weighted_chi_square() -> None:
    same = [("color", "red", "red"), ("color", "blue", "blue")]
    assert distribution(same) == 0
    apart = [*same[:1], ("color", "blue", "red"), ("shape", "ring", "ring")]
    # color: red 2 instead of 1, blue 0 instead of 1 -> 1 + 1, two questions; shape: 0, one question
    assert distribution(apart) == pytest.approx((2 * 2 + 0) / 3)


def test_chunks_are_merged_and_may_not_overlap(files: Any) -> None:
    files.json("gqa/testdev_balanced_questions/testdev_balanced_questions_0.json", {"a": row("?", "x")})
    files.json("gqa/testdev_balanced_questions/testdev_balanced_questions_1.json", {"b": row("?", "x")})
    files.sizes(gqa__testdev=2)
    assert [s.id for s in GQA(protocol="llava").load(files.root)] == ["a", "b"]
    files.json("gqa/testdev_balanced_questions/testdev_balanced_questions_2.json", {"a": row("?", "x")})
    with pytest.raises(ValueError, match="question 'a' is in another chunk"):
        GQA(protocol="llava").load(files.root)


def test_predictions_for_the_official_tool(folder: Any) -> None:
    task = GQA(protocol="llava")
    samples = task.load(folder.root)[:2]
    name, content = task.submission(samples, ["Red.", "blue"], folder.root)
    assert name == "testdev_balanced_predictions.json"
    assert json.loads(content)[0] == {"questionId": "q1", "prediction": "red"}


def test_a_missing_prediction_is_an_error_not_a_shift(folder: Any) -> None:
    task = GQA(protocol="llava")
    samples = task.load(folder.root)
    with pytest.raises(ValueError, match="shorter"):
        task.score(samples, ["red", "blue", "yes"])


def test_lmms_labs_layout_joins_images_by_id(files: Any) -> None:
    files.parquet(
        "gqa/testdev_balanced_images/testdev-00000-of-00001.parquet",
        [{"id": f"n{i}", "image": {"bytes": files.png(c), "path": ""}} for i, c in ((1, "red"), (2, "blue"))],
    )
    lab = row("Which?", "red", entailed="['q9']") | {
        "groups": None,
        "types": {"structural": "query", "semantic": "obj"},
    }
    files.parquet(
        "gqa/testdev_balanced_instructions/testdev-00000-of-00001.parquet",
        [lab | {"id": "a", "imageId": "n2"}, lab | {"id": "b", "imageId": "n1"}],
    )
    files.sizes(gqa__testdev=2)
    samples = GQA(protocol="lmms-eval").load(files.root)
    assert [s.image.getpixel((0, 0)) for s in samples] == [(0, 0, 255), (255, 0, 0)]
    assert samples[0].info["entailed"] == ["q9"]


def test_samples_of_the_miniature_have_subscores_by_family() -> None:
    task = GQA()
    samples: list[Sample] = task.micro(6)
    assert set(task.subscores(samples, ["red"] * 6)) == {"color", "shape", "relation"}
