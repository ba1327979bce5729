"""Answers of vLLM with the plug-in are those of `attach` with closed-up positions, on the busy model."""

from __future__ import annotations

import pytest
from PIL.Image import Image

from tests.serving.conftest import METHODS, WHY, Ask, Served

pytest.importorskip("vllm", reason=WHY)
pytestmark = pytest.mark.timeout(1200)

STAR, SIGNS, DIAMOND = "what color is the star ?", "how many signs are there ?", "what color is the diamond ?"
QUESTIONS = (STAR, SIGNS, DIAMOND)


@pytest.fixture(scope="module")
def whole(busy: Served, scenes: list[Image]) -> list[int]:
    """Tokens of prompts in which nothing is compressed; answers to them are those of transformers."""
    asks = [Ask(question, [image]) for question, image in zip(QUESTIONS, scenes, strict=True)]
    assert busy.answers(asks) == busy.expected(asks)
    return busy.prompts


@pytest.mark.parametrize("keep", [64, 16])
@pytest.mark.parametrize("method", METHODS)
def test_answers_are_those_of_attach(
    busy: Served, scenes: list[Image], whole: list[int], method: str, keep: int
) -> None:
    asked = zip(QUESTIONS, scenes, strict=True)
    asks = [Ask(question, [image], method, keep) for question, image in asked]
    assert busy.answers(asks) == busy.expected(asks)
    fewer = [one - other for one, other in zip(whole, busy.prompts, strict=True)]
    assert fewer == [576 - keep] * 3


def test_one_batch_may_mix_methods_budgets_and_images(busy: Served, scenes: list[Image]) -> None:
    wanted = [("visionzip", 64), ("", None), ("words", 16), ("evocomp+", "1/9"), ("divprune", 5)]
    asks = [
        Ask(QUESTIONS[number % 3], [scenes[number % 2]], method, keep)
        for number, (method, keep) in enumerate(wanted)
    ]
    assert busy.answers(asks) == busy.expected(asks)


@pytest.mark.parametrize("method", ["farthest", "visionzip", "words", "evocomp+"])
def test_several_images_in_a_prompt(busy: Served, scenes: list[Image], method: str) -> None:
    asks = [Ask(question, scenes[:2], method, 16) for question in QUESTIONS]
    asks.append(Ask(STAR, [scenes[0], scenes[0]], method, 16))  # the same image at two places
    assert busy.answers(asks) == busy.expected(asks)


@pytest.mark.parametrize("method", ["farthest", "visionzip", "evocomp+"])
def test_kept_tokens_of_an_image_may_be_read_in_pieces(
    busy: Served, scenes: list[Image], method: str
) -> None:
    asked = zip(QUESTIONS, scenes, strict=True)
    asks = [Ask(question, [image], method, 400) for question, image in asked]
    with busy.noted_pieces() as pieces:
        assert busy.answers(asks) == busy.expected(asks)
    assert max(pieces) == 256 < min(busy.prompts)


@pytest.mark.parametrize("method", ["words", "evocomp+", "cdpruner"])
def test_two_questions_about_one_image_with_prefixes_cached(
    busy: Served, scenes: list[Image], method: str
) -> None:
    asks = [Ask(question, [scenes[1]], method, 64) for question in QUESTIONS]
    expected = busy.expected(asks)
    for _ in range(2):
        assert [busy.answers([ask])[0] for ask in asks] == expected
    assert busy.cached[0] > 0  # the last one was asked before


def test_another_image_in_front_of_a_cached_one(busy: Served, scenes: list[Image]) -> None:
    asks = [Ask(STAR, [scenes[0]], "evocomp+", 16), Ask(STAR, [scenes[2], scenes[0]], "evocomp+", 16)]
    assert [busy.answers([ask])[0] for ask in asks] == busy.expected(asks)


@pytest.mark.parametrize(
    ("method", "keep", "why"),
    [
        ("fastv", 5, "started with none, farthest"),
        ("words", 10**6, "choose between 1 and the 576 visual tokens"),
        ("words", 0, "a count of visual tokens from 1"),
    ],
)
def test_impossible_wishes_are_refused(
    busy: Served, scenes: list[Image], method: str, keep: int, why: str
) -> None:
    with pytest.raises(ValueError, match=why):
        busy.answers([Ask(STAR, scenes[:1], method, keep)])
