"""OCRBench: the answer contains the truth; formulas without spaces and with their case."""

from __future__ import annotations

from typing import Any

import pytest

from bench.tasks.ocrbench import OCRBench


@pytest.fixture
def folder(files: Any) -> Any:
    rows = [
        ("IIIT5K", "CENTRE", "Regular Text Recognition"),
        ("ctw", ["ANTONIOS", "ANTONIO'S"], "Irregular Text Recognition"),
        ("HME100k", "B a = C\n", "Handwritten Mathematical Expression Recognition"),
        ("docVQA", "itc limited", "Doc-oriented VQA"),
    ]
    told = [
        {"dataset_name": source, "id": 3, "image_path": f"{source}/1.png", "question": "what is written?",
         "answers": answers, "type": kind} for source, answers, kind in rows
    ]  # fmt: skip
    files.json("ocrbench/OCRBench.json", told)
    files.sizes(ocrbench__test=4)
    return files


def test_prompts(folder: Any) -> None:
    """The authors' script for LLaVA asks for a word or phrase, lmms-eval the bare question."""
    first = OCRBench(protocol="llava").load(folder.root)[0]
    assert first.question == "what is written?\nAnswer the question using a single word or phrase."
    assert OCRBench(protocol="lmms-eval").load(folder.root)[0].question == "what is written?"
    assert first.id == "IIIT5K-3"


@pytest.mark.parametrize(
    ("place", "text", "right"),
    [
        (0, "It says Centre.", 1), (0, "CENTER", 0), (1, "antonio's", 1), (1, "ANTONIOS bar", 1), (1, "", 0),
        (2, "Ba=C", 1), (2, "B a = C", 1), (2, "b a = c", 0), (3, "ITC\nLimited", 1),
    ],
)  # fmt: skip
def test_an_answer_contains_the_truth(folder: Any, place: int, text: str, right: int) -> None:
    for protocol in ("llava", "lmms-eval"):
        task = OCRBench(protocol=protocol)  # type: ignore[arg-type]
        assert task.correct(task.load(folder.root)[place], text) == right


def test_only_lmms_eval_folds_full_width_letters(folder: Any) -> None:
    for protocol, right in (("llava", 0), ("lmms-eval", 1)):
        task = OCRBench(protocol=protocol)  # type: ignore[arg-type]
        assert task.correct(task.load(folder.root)[0], "ＣＥＮＴＲＥ") == right


def test_recognition_is_six_kinds_together(folder: Any) -> None:
    task = OCRBench(protocol="llava")
    found = task.subscores(task.load(folder.root), ["centre", "x", "x", "itc limited"])
    assert found["text recognition"] == 50 and found["Doc-oriented VQA"] == 100
