"""TextVQA: the line of OCR tokens, joined by image and question, and never mixed with none."""

from __future__ import annotations

from typing import Any

import pytest

from bench.evaluation.protocol import differences, of_task
from bench.tasks.textvqa import TextVQA

SHORT = "\nAnswer the question using a single word or phrase."
LINE = {
    "question_id": "003a8ae2ef43b901", "image": "003a8ae2ef43b901.jpg", "category": "default",
    "text": "What is the brand of this camera?\n"
    "Reference OCR token: DAKOTA, DIGITAL, Single-Use, Camera, Pire, digitat\n"
    "Answer the question using a single word or phrase.",
}  # fmt: skip


def row(number: int, question: str, answers: list[str], image: str = "003a8ae2ef43b901") -> dict[str, Any]:
    return {
        "question_id": number,
        "question": question,
        "image_id": image,
        "answers": answers,
        "set_name": "val",
    }


@pytest.fixture
def folder(files: Any) -> Any:
    rows = [
        row(1, "what is the brand of this camera?", ["dakota"] * 3 + ["clos du bois"] * 7),
        row(2, "What does IT say?", ["DIGITAL"] * 10),
    ]
    files.json("textvqa/TextVQA_0.5.1_val.json", {"data": rows})
    tokens = [{"image_id": "003a8ae2ef43b901", "ocr_tokens": ["DAKOTA", "DIGITAL"], "ocr_info": []}]
    files.json("textvqa/TextVQA_Rosetta_OCR_v0.2_val.json", {"data": tokens})
    files.sizes(textvqa__val=2)
    return files


def test_llava_is_asked_with_the_hint_and_lmms_eval_without(folder: Any) -> None:
    hinted = TextVQA(protocol="llava").load(folder.root)
    assert hinted[1].question == "What does IT say?\nReference OCR token: DAKOTA, DIGITAL" + SHORT
    assert TextVQA(protocol="lmms-eval").load(folder.root)[1].question == "What does it say?" + SHORT
    off = TextVQA(protocol="llava", ocr_hint="off").load(folder.root)
    assert off[1].question == "What does IT say?" + SHORT
    on = TextVQA(protocol="lmms-eval", ocr_hint="on").load(folder.root)
    assert on[1].question == "What does it say?\nReference OCR token: DAKOTA, DIGITAL" + SHORT


def test_llavas_file_is_joined_by_image_and_lower_cased_question(folder: Any) -> None:
    """Trap 5: its question_id is the image, which several questions share."""
    second = LINE | {"text": "what does it SAY?\nReference OCR token: X" + SHORT}
    folder.lines("textvqa/llava_textvqa_val_v051_ocr.jsonl", [second, LINE])
    samples = TextVQA(protocol="llava").load(folder.root)
    assert [s.question for s in samples] == [LINE["text"], second["text"]]
    assert samples[0].answers[0] == "dakota"


def test_a_question_that_llavas_file_lacks_is_refused(folder: Any) -> None:
    folder.lines("textvqa/llava_textvqa_val_v051_ocr.jsonl", [LINE])
    with pytest.raises(ValueError, match="does not ask 'What does IT say"):
        TextVQA(protocol="llava").load(folder.root)


def test_an_image_without_tokens_is_refused(folder: Any) -> None:
    folder.json("textvqa/TextVQA_Rosetta_OCR_v0.2_val.json", {"data": []})
    with pytest.raises(ValueError, match="no tokens of image 003a8ae2ef43b901"):
        TextVQA(protocol="llava").load(folder.root)
    assert TextVQA(protocol="lmms-eval").load(folder.root)  # needs none


def test_accuracy_is_normalised_on_both_sides(folder: Any) -> None:
    task = TextVQA(protocol="llava")
    assert task.score(task.load(folder.root), ["Dakota.", "digital"]) == pytest.approx(95)


def test_nine_answers_are_refused(folder: Any) -> None:
    folder.json("textvqa/TextVQA_0.5.1_val.json", {"data": [row(1, "?", ["x"] * 9)]})
    folder.sizes(textvqa__val=1)
    with pytest.raises(ValueError, match="not ten human answers: '1' has 9"):
        TextVQA(protocol="llava").load(folder.root)


def test_runs_with_and_without_hint_are_told_apart(folder: Any) -> None:
    """Traps 1 and 5: protocol, hint, image mode and questions are facts that two runs must share."""
    given: list[dict[str, Any]] = [
        {"protocol": "llava"}, {"protocol": "lmms-eval"}, {"protocol": "llava", "ocr_hint": "off"},
        {"protocol": "llava", "image_mode": "whole"},
    ]  # fmt: skip
    told = [of_task(task, task.load(folder.root)) for task in (TextVQA(**one) for one in given)]
    first, *others = told
    for facts, option in zip(others, ("protocol", "ocr hint", "image mode"), strict=True):
        named = differences(first, facts)
        assert any(one.startswith(f"textvqa: {option}") for one in named)
        assert any(one.startswith("textvqa: samples") for one in named)
    assert differences(first, first) == []


def test_lmms_labs_layout_has_the_tokens_in_its_rows(files: Any) -> None:
    made = row(1, "What?", ["x"] * 10) | {
        "ocr_tokens": ["A", "B"],
        "image": {"bytes": files.png(), "path": ""},
    }
    files.parquet("textvqa/data/validation-00000-of-00001.parquet", [made])
    files.sizes(textvqa__val=1)
    assert "Reference OCR token: A, B" in TextVQA(protocol="llava").load(files.root)[0].question
    assert "OCR" not in TextVQA(protocol="lmms-eval").load(files.root)[0].question
