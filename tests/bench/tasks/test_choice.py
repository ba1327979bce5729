"""Reading letters: VLMEvalKit's vectors, the older matcher of lmms-eval, and letters in Chinese text."""

from __future__ import annotations

import pytest

from bench.tasks.choice import any_script, lmms_eval, vlmevalkit

OPTIONS = {"A": "cat", "B": "dog", "C": "a red car", "D": "none of these"}


@pytest.mark.parametrize(
    ("said", "letter"),
    [
        ("A", "A"), ("A.", "A"), ("(B)", "B"), ("B. dog", "B"), ("The answer is C", "C"),
        ("It is a dog", "B"), ("Option B", "B"), ("C、a red car", "C"), ("D) none of these", "D"),
        ("A dog is in the image", "B"), ("the dog sits on A chair now", "A"), ("a cat or a dog", None),
        ("A and B", None), ("b", None), ("答案：C", None), ("选B", None), ("", None),
    ],
)  # fmt: skip
def test_vlmevalkit_vectors(said: str, letter: str | None) -> None:
    assert vlmevalkit(said, OPTIONS) == letter


def test_a_letter_far_from_the_end_is_a_word() -> None:
    assert vlmevalkit("B it is then", OPTIONS) == "B"  # the fourth token from the end
    assert vlmevalkit("B as I have said", OPTIONS) is None


def test_texts_are_found_whatever_their_case() -> None:
    for matcher in (vlmevalkit, lmms_eval):
        assert matcher("it is a DOG", {"A": "Cat", "B": "Dog"}) == "B"


def test_a_told_answer_wins_and_asterisks_do_not_hurt() -> None:
    assert vlmevalkit("A and B, but the answer is **b**", OPTIONS) == "B"
    assert vlmevalkit("the correct answer is D", {"A": "x", "B": "y"}) is None  # there is no D


def test_refusals_and_long_texts_have_no_option() -> None:
    assert vlmevalkit("Cannot determine the answer: dog", OPTIONS) is None
    assert vlmevalkit("Z, a dog", OPTIONS) is None
    assert vlmevalkit("dog " + "word " * 40, OPTIONS) is None  # longer than twice all options
    short = {"A": "red", "B": "blue"}
    assert vlmevalkit("it is red, yes", short) == "A"  # fourteen characters: not longer
    assert vlmevalkit("it is red, yes!", short) is None


def test_lmms_eval_reads_decorated_letters_and_long_texts() -> None:
    assert [lmms_eval(said, OPTIONS) for said in ("B", "(B)", "B.", "B: dog", ":C)", "(A).")] == list(
        "BBBBCA"
    )
    assert lmms_eval("dog " + "word " * 40, OPTIONS) == "B"  # no limit
    assert lmms_eval("A dog is there", OPTIONS) == "B"  # the article
    assert lmms_eval("E", OPTIONS) == "E"  # wrong, but read
    assert lmms_eval("I choose [B]", OPTIONS) is None


def test_any_script_finds_letters_among_chinese_ones() -> None:
    assert [any_script(said, OPTIONS) for said in ("答案：C", "选B", "选项D。", "答案是A")] == list("CBDA")
    assert any_script("选A或B", OPTIONS) is None
    assert any_script("CPU", OPTIONS) is None and any_script("it's D's", OPTIONS) is None


@pytest.mark.parametrize("said", ["A.", "The answer is C", "A dog is in the image", "It is a dog"])
def test_any_script_changes_nothing_that_is_read_already(said: str) -> None:
    assert any_script(said, OPTIONS) == vlmevalkit(said, OPTIONS)
