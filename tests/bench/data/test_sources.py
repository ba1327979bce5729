"""Official files of training questions become records of LLaVA's form, one reader for all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench.data.instructions import Index, Instructions
from bench.data.records import write
from bench.data.sources import SOURCES, micro, read_source
from bench.tasks.mixture import training_sample

SHORT = "Answer the question using a single word or phrase."
LETTER = "Answer with the option's letter from the given choices directly."


def vqa(prefix: str) -> dict[str, Any]:
    """The two files that VQA and OK-VQA share; the annotations lie in another order."""
    questions = [{"image_id": 9 + i, "question": f"How many {i}?", "question_id": 9000 + i} for i in range(2)]
    humans = [
        {"question_id": 9001, "image_id": 10, "answers": [{"answer": a} for a in ("two", "2", "2")]},
        {"question_id": 9000, "image_id": 9, "answers": [{"answer": a} for a in ("one", "one", "1")]},
    ]
    return {
        f"{prefix}OpenEnded_mscoco_train2014_questions.json": {"questions": questions},
        f"{prefix}mscoco_train2014_annotations.json": {"annotations": humans},
    }


VQA = [
    ("coco/train2017/000000000009.jpg", f"How many 0?\n{SHORT}", "one"),
    ("coco/train2017/000000000010.jpg", f"How many 1?\n{SHORT}", "2"),
]
FILES: dict[str, dict[str, Any]] = {
    "gqa": {
        "train_balanced_questions.json": {"07": {"imageId": "23", "question": "Is it?", "answer": "yes"}}
    },
    "vqav2": vqa("v2_"),
    "okvqa": vqa(""),
    "aokvqa": {
        "aokvqa_v1p0_train.json": [
            {
                "question_id": "2a", "image_id": 299207, "question": "What is it?", "correct_choice_idx": 2,
                "choices": ["a", "b", "c", "d"], "direct_answers": ["c"], "split": "train",
            }
        ]
    },
    "ocrvqa": {
        "dataset.json": {
            "07": {"questions": ["Who?", "Which year?"], "answers": ["Me", 1999], "split": 1, "imageURL": ""},
            "08": {"questions": ["Who?"], "answers": ["You"], "split": 2, "imageURL": ""},
        }
    },
    "textvqa": {
        "TextVQA_0.5.1_train.json": {
            "data": [{"question_id": 0, "question": "a brand?", "image_id": "0a", "answers": ["b", "a", "a"]}]
        }
    },
    "scienceqa": {
        "problems.json": {
            "1": {
                "question": "Which?", "choices": ["x", "y"], "answer": 1, "hint": "Look.",
                "image": "image.png", "split": "train",
            },
            "2": {"question": "?", "choices": ["x"], "answer": 0, "image": None, "split": "train"},
            "3": {"question": "?", "choices": ["x"], "answer": 0, "image": "image.png", "split": "val"},
        }
    },
}  # fmt: skip
EXPECTED: dict[str, list[tuple[str, str, str]]] = {
    "gqa": [("gqa/images/23.jpg", f"Is it?\n{SHORT}", "yes")],
    "vqav2": VQA,
    "okvqa": VQA,
    "aokvqa": [
        ("coco/train2017/000000299207.jpg", f"What is it?\nA. a\nB. b\nC. c\nD. d\n{LETTER}", "C"),
    ],
    "ocrvqa": [
        ("ocr_vqa/images/07.jpg", f"Who?\n{SHORT}", "Me"),
        ("ocr_vqa/images/07.jpg", f"Which year?\n{SHORT}", "1999"),
    ],
    "textvqa": [("textvqa/train_images/0a.jpg", f"a brand?\n{SHORT}", "a")],
    "scienceqa": [
        ("scienceqa/images/train/1/image.png", f"Context: Look.\nWhich?\nA. x\nB. y\n{LETTER}", "B"),
    ],
}


@pytest.fixture
def folder(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    for name, content in FILES[request.param].items():
        (tmp_path / name).write_text(json.dumps(content))
    return tmp_path


@pytest.mark.parametrize(("name", "folder"), [(name, name) for name in SOURCES], indirect=["folder"])
def test_official_files_become_samples(name: str, folder: Path) -> None:
    write(folder / "made.json", read_source(name, folder))
    index = Index.of(folder / "made.json")
    samples = Instructions(index, folder, turns="all")
    assert index.left_out == {}
    assert [(s.picture.name, s.question, s.answers[0]) for s in samples] == EXPECTED[name]  # type: ignore[union-attr]
    assert {s.family for s in samples} == {name}


@pytest.mark.parametrize("name", SOURCES)
def test_files_of_another_form_are_refused_and_the_right_ones_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no folder"):
        list(read_source(name, tmp_path / "no"))
    with pytest.raises(ValueError, match="has no .*json"):
        list(read_source(name, tmp_path))
    for file in FILES[name]:
        (tmp_path / file).write_text('{"7": {}, "questions": [{}], "annotations": [], "data": [{}]}')
    with pytest.raises(ValueError, match=f"a record is of another form .* the files of {name} are .*json"):
        list(read_source(name, tmp_path))


def test_the_micro_mixture_as_a_file_holds_the_same_samples(tmp_path: Path) -> None:
    write(tmp_path / "micro.json", micro(6, tmp_path))
    index = Index.of(tmp_path / "micro.json").checked(tmp_path)
    for number, sample in enumerate(Instructions(index, tmp_path)):
        made = training_sample(number)
        assert (sample.question, sample.answers[0]) == (made.question, made.answers[0])
        assert sample.image.tobytes() == made.image.tobytes()
