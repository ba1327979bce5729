"""VizWiz: images for ids, the unanswerable drift, and two protocols' prompts."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bench.tasks.vizwiz import VizWiz


def row(number: int, answers: list[str], kind: str = "other", part: str = "val") -> dict[str, Any]:
    return {
        "image": f"VizWiz_{part}_{number:08d}.jpg", "question": "What IS this?", "answer_type": kind,
        "answers": [{"answer": a, "answer_confidence": "yes"} for a in answers], "answerable": 1,
    }  # fmt: skip


@pytest.fixture
def folder(files: Any) -> Any:
    files.json(
        "vizwiz/val.json",
        [row(0, ["Coke."] * 2 + ["unanswerable"] * 8, "unanswerable"), row(1, ["the dog"] * 4 + ["cat"] * 6)],
    )
    files.json("vizwiz/test.json", [{"image": "VizWiz_test_00000000.jpg", "question": "What?"}])
    files.sizes(vizwiz__val=2)
    files.sizes(vizwiz__test=1)
    return files


def test_prompts(folder: Any) -> None:
    tail = (
        "\nWhen the provided information is insufficient, respond with 'Unanswerable'."
        "\nAnswer the question using a single word or phrase."
    )
    assert VizWiz(protocol="llava").load(folder.root)[0].question == "What IS this?" + tail
    assert VizWiz(protocol="lmms-eval").load(folder.root)[0].question == "What is this?" + tail


def test_the_image_is_the_id_and_may_stand_once_only(folder: Any) -> None:
    """Trap 6: there are no question ids."""
    assert [s.id for s in VizWiz(protocol="llava").load(folder.root)] == [
        "VizWiz_val_00000000",
        "VizWiz_val_00000001",
    ]
    folder.json("vizwiz/val.json", [row(0, ["x"] * 10)] * 2)
    with pytest.raises(
        ValueError, match="1 ids stand for several samples, for instance 'VizWiz_val_00000000'"
    ):
        VizWiz(protocol="llava").load(folder.root)


def test_unanswerable_is_an_answer_whose_rate_is_told(folder: Any) -> None:
    """Trap 6: who says Unanswerable gains what humans said so; the rate stands beside the score."""
    task = VizWiz(protocol="llava")
    samples = task.load(folder.root)
    said = ["Unanswerable", "A dog."]
    assert task.score(samples, said) == 100
    assert task.score(samples, ["coke", "unanswerable"]) == pytest.approx(100 * 0.6 / 2)
    found = task.subscores(samples, said)
    assert found == {"other": 100, "unanswerable": 100, "predicted unanswerable": 50}
    assert task.headline == ("predicted unanswerable",)


def test_val_and_test_are_other_scales(folder: Any) -> None:
    """Trap 6: a split is part of what a score was made under."""
    from bench.evaluation.protocol import differences, of_task

    val, test = VizWiz(protocol="llava"), VizWiz(protocol="llava", split="test")
    told = differences(of_task(val, val.load(folder.root)), of_task(test, test.load(folder.root)))
    assert any(one.startswith("vizwiz: split") for one in told)


def test_submission_of_test_is_normalised(folder: Any) -> None:
    task = VizWiz(protocol="llava", split="test")
    samples = task.load(folder.root)
    assert samples[0].answers == ()
    name, content = task.submission(samples, ["Two dogs."], folder.root)
    assert (name, json.loads(content)) == (
        "vizwiz-test.json",
        [{"image": "VizWiz_test_00000000.jpg", "answer": "2 dogs"}],
    )


def test_lmms_labs_layout(files: Any) -> None:
    made = {
        "question_id": "VizWiz_val_00000000.jpg",
        "question": "what?",
        "answers": ["x"] * 10,
        "category": "other",
    }
    files.parquet(
        "vizwiz/data/val-00000-of-00001.parquet", [made | {"image": {"bytes": files.png(), "path": ""}}]
    )
    files.sizes(vizwiz__val=1)
    (one,) = VizWiz(protocol="lmms-eval").load(files.root)
    assert (one.id, one.family, one.info["image"]) == (
        "VizWiz_val_00000000",
        "other",
        "VizWiz_val_00000000.jpg",
    )
