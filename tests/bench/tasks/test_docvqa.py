"""DocVQA: ANLS by its definition, pages, and the server's file."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bench.tasks.docvqa import DocVQA, anls, distance


@pytest.mark.parametrize(
    ("a", "b", "edits"), [("kitten", "sitting", 3), ("", "abc", 3), ("flaw", "lawn", 2), ("same", "same", 0)]
)
def test_distance(a: str, b: str, edits: int) -> None:
    assert distance(a, b) == distance(b, a) == edits


@pytest.mark.parametrize(
    ("answers", "said", "score"),
    [
        (["itc limited"], "ITC Limited", 1),
        (["kitten"], "sitting", 1 - 3 / 7),
        (["abcd"], "abxy", 0.5),  # half wrong still counts, as in the official tool
        (["abcd"], "axyz", 0),  # three quarters wrong do not
        (["1998", "the year 1998"], "year 1998", 1 - 4 / 13),  # the nearest answer
        (["a  b"], "a b", 1),  # spaces are joined
        (["a  b"], "a c", 1 - 1 / 4),  # and count in the length
        (["a"], "", 0),
    ],
)
def test_anls(answers: list[str], said: str, score: float) -> None:
    assert anls(answers, said) == pytest.approx(score)


@pytest.fixture
def folder(files: Any) -> Any:
    def row(number: int, **more: Any) -> dict[str, Any]:
        return {
            "questionId": number, "question": "What Company?", "image": "documents/ab_1.png", "docId": 2,
            "question_types": ["form"], **more,
        }  # fmt: skip

    told = [row(7, answers=["ITC"]), row(8, answers=["itc limited"])]
    files.json("docvqa/val_v1.0_withQT.json", {"data": told})
    files.json("docvqa/test_v1.0.json", {"data": [row(9)]})
    files.sizes(docvqa__val=2, docvqa__test=1)
    return files


def test_questions_about_a_page_share_its_name(folder: Any) -> None:
    task = DocVQA(protocol="llava")
    samples = task.load(folder.root)
    assert task.images(samples) == ("docvqa/ab_1.png",) * 2
    assert samples[0].question == "What Company?\nAnswer the question using a single word or phrase."
    assert task.score(samples, ["itc", "itc limits"]) == pytest.approx(100 * (1 + 9 / 11) / 2)
    assert task.subscores(samples, ["itc", ""]) == {"form": 50}


def test_the_servers_file(folder: Any) -> None:
    task = DocVQA(protocol="llava", split="test")
    name, content = task.submission(task.load(folder.root), ["ITC"], folder.root)
    assert (name, json.loads(content)) == ("docvqa-test.json", [{"questionId": 9, "answer": "ITC"}])
