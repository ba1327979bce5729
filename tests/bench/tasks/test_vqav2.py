"""VQAv2: questions joined to annotations by id, the protocols' normalisers, an upload of all questions."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bench.tasks.vqav2 import VQAv2


def human(*answers: str) -> list[dict[str, Any]]:
    return [{"answer": a, "answer_confidence": "yes", "answer_id": i} for i, a in enumerate(answers, 1)]


def annotation(
    number: int, answers: list[dict[str, Any]], kind: str = "number", image: int = 9
) -> dict[str, Any]:
    return {
        "question_id": number, "image_id": image, "answer_type": kind, "question_type": "how many",
        "answers": answers, "multiple_choice_answer": "2",
    }  # fmt: skip


QUESTIONS = "vqav2/v2_OpenEnded_mscoco_{}_questions.json"


def questions(files: Any, part: str, numbers: list[int]) -> None:
    rows = [{"image_id": 9, "question": f"How many {n}?", "question_id": n} for n in numbers]
    files.json(QUESTIONS.format(part), {"questions": rows})


@pytest.fixture
def folder(files: Any) -> Any:
    questions(files, "val2014", [1, 2])
    labels = [annotation(2, human(*["two"] * 10), "other"), annotation(1, human(*["2"] * 3, *["3"] * 7))]
    files.json("vqav2/v2_mscoco_val2014_annotations.json", {"annotations": labels})
    files.image("vqav2/val2014/COCO_val2014_000000000009.jpg")
    files.sizes(vqav2__val=2)
    return files


def test_annotations_are_joined_by_question_id(folder: Any) -> None:
    task = VQAv2(protocol="llava")
    first, second = task.load(folder.root)
    assert (first.id, first.family, first.answers[0]) == ("1", "number", "2")
    assert first.question == "How many 1?\nAnswer the question using a single word or phrase."
    assert first.image.size == (8, 8) and second.answers == ("two",) * 10


def test_protocols_normalise_human_answers_differently(folder: Any) -> None:
    official, harness = VQAv2(protocol="llava"), VQAv2(protocol="lmms-eval")
    samples = official.load(folder.root)
    said = ["Two.", "two"]
    assert official.score(samples, said) == pytest.approx(45)  # 0.9, and humans who said "two" are not "2"
    assert harness.score(samples, said) == pytest.approx(95)
    assert official.subscores(samples, said) == pytest.approx({"number": 90, "other": 0})


def test_lmms_eval_does_not_split_the_possessive() -> None:
    from compress.samples import Sample

    one = Sample("1", None, "?", ("man's",) * 10)  # type: ignore[arg-type]
    assert VQAv2(protocol="lmms-eval").correct(one, "Man's") == 1
    assert VQAv2(protocol="llava").correct(one, "Man's") == 0  # LLaVA's upload says: man 's


def test_another_image_in_the_annotations_is_refused(folder: Any) -> None:
    labels = [annotation(n, human(*["2"] * 10), image=8) for n in (1, 2)]
    folder.json("vqav2/v2_mscoco_val2014_annotations.json", {"annotations": labels})
    with pytest.raises(ValueError, match="question 1 has another image"):
        VQAv2(protocol="llava").load(folder.root)


def test_questions_without_annotation_or_ten_answers_are_refused(folder: Any) -> None:
    folder.json(
        "vqav2/v2_mscoco_val2014_annotations.json", {"annotations": [annotation(1, human(*["2"] * 10))]}
    )
    with pytest.raises(ValueError, match="1 samples have no answer, but the others have one"):
        VQAv2(protocol="llava").load(folder.root)
    short = [annotation(1, human(*["2"] * 9)), annotation(2, human(*["2"] * 10))]
    folder.json("vqav2/v2_mscoco_val2014_annotations.json", {"annotations": short})
    with pytest.raises(ValueError, match="have not ten human answers: '1' has 9"):
        VQAv2(protocol="llava").load(folder.root)


def test_the_upload_of_test_dev_has_all_questions_of_test(files: Any) -> None:
    """Trap 7: those that were not asked are there with an empty answer."""
    questions(files, "test-dev2015", [5, 6])
    questions(files, "test2015", [4, 5, 6, 7])
    files.sizes(**{"vqav2__test_dev": 2})
    task = VQAv2(protocol="llava", split="test-dev")
    samples = task.load(files.root)
    assert samples[0].answers == ()
    name, content = task.submission(samples, ["The Man's", "two"], files.root)
    assert name == "vqav2-test-dev.json"
    assert json.loads(content) == [
        {"question_id": 4, "answer": ""}, {"question_id": 5, "answer": "man 's"},
        {"question_id": 6, "answer": "2"}, {"question_id": 7, "answer": ""},
    ]  # fmt: skip


def test_the_upload_needs_the_questions_of_test(files: Any) -> None:
    questions(files, "test-dev2015", [5])
    files.sizes(**{"vqav2__test_dev": 1})
    task = VQAv2(protocol="llava", split="test-dev")
    samples = task.load(files.root)
    with pytest.raises(ValueError, match="no v2_OpenEnded_mscoco_test2015_questions.json"):
        task.submission(samples, ["x"], files.root)
    questions(files, "test2015", [4])
    with pytest.raises(ValueError, match="1 of these are none .for instance 5"):
        task.submission(samples, ["x"], files.root)


def test_lmms_labs_layout(files: Any) -> None:
    row = annotation(1, human(*["2"] * 10)) | {
        "question": "How many?",
        "image": {"bytes": files.png(), "path": ""},
    }
    files.parquet("vqav2/data/validation-00000-of-00001.parquet", [row, row | {"question_id": 2}])
    files.sizes(vqav2__val=2)
    samples = VQAv2(protocol="lmms-eval").load(files.root)
    assert [s.id for s in samples] == ["1", "2"] and samples[0].answers == ("2",) * 10
