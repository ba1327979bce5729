"""The VQA normaliser and accuracy against vectors that the reference implementations gave."""

from __future__ import annotations

import random
import string
from math import isnan

import pytest

from bench.tasks.vqa import MARKS, SPELLING, accuracy, agreement, normalised, official_accuracy, without_marks

# text, all steps, and without the tokeniser step where that differs
VECTORS = [
    ("Yes.", "yes"), ("two", "2"), ("The Cat", "cat"), ("dont know", "don't know"), ("1,000", "1000"),
    ("100,978 people", "100978 people"), ("3.5", "3.5"), ("3.5.", "3.5"), ("U.S.A.", "usa"), ("v2.0", "v2.0"),
    ("N/A", "n"), ("A+", ""), ("black/white", "black white"), ("black / white", "black white"),
    ("red, white and blue", "red white and blue"), ("12, 13", "12 13"), ("3,4", "34"), ("3, 4", "3 4"),
    ("it's", "it 's", "it's"), ("the man's hat", "man 's hat", "man's hat"),
    ("St. John's", "st john 's", "st john's"), ("Dr. Pepper", "dr pepper"), ("10:30", "10:30"),
    ("$5.00", "$5.00"), ("100%", "100%"), ("rock & roll", "rock & roll"), ("wi-fi", "wi fi"),
    ("half-full", "half full"), ("right (side)", "right side"), ('"quoted"', "quoted"), ("none", "0"),
    ("a", ""), ("ten", "10"), ("eleven", "eleven"), ("one two three", "1 2 3"), ("x=1", "x 1"),
    ("www.google.com", "wwwgooglecom"), ("C++", "c"), ("5'10\"", "5'10"), ("#1", "#1"),
    ("line1\nline2", "line1 line2"), ("", ""), ("isnt", "isn't"), ("couldntve", "couldntve"),
]  # fmt: skip


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: repr(vector[0]))
def test_normaliser_does_as_the_reference(vector: tuple[str, ...]) -> None:
    text, whole, *bare = vector
    assert normalised(text) == whole
    assert normalised(text, tokenise=False) == (bare[0] if bare else whole)


def test_normal_answers_are_plain_and_stay_as_they_are() -> None:
    rng = random.Random(0)
    letters = string.ascii_letters + string.digits + MARKS + ".'    :$%&#*"
    for _ in range(3000):
        text = "".join(rng.choice(letters) for _ in range(rng.randrange(24)))
        done = normalised(text)
        assert done == done.lower() and "  " not in done and done == done.strip()
        assert not {"a", "an", "the"} & set(done.split())
        assert normalised(done) == done, text


def test_only_the_first_32_periods_are_touched() -> None:
    assert normalised("x" + ".x" * 40) == "x" * 33 + ".x" * 8


def test_contractions_are_found_where_one_apostrophe_is_missing() -> None:
    assert len(SPELLING) == 114
    assert normalised("yalld've youre wont") == "yalld've you're won't"
    assert normalised("couldn'tve couldnt've") == "couldn't've couldn't've"
    assert normalised("somebody'd") == "somebodyd"  # the reference's own slip
    assert normalised("Im Ive") == "im ive"  # it looks for these in capitals


def test_accuracy_is_the_table_and_not_a_third_of_the_matches() -> None:
    """Trap 4: 0.3, 0.6, 0.9, 1, where min(1, k / 3) would give a third, two thirds, 1."""
    assert [agreement(k) for k in range(11)] == pytest.approx([0, 0.3, 0.6, 0.9] + [1.0] * 7)
    for k in range(11):
        answers = ["two"] * k + [f"other {i}" for i in range(10 - k)]
        assert accuracy(answers, "2.") == pytest.approx([0, 0.3, 0.6, 0.9, 1][min(k, 4)])


def test_accuracy_is_the_mean_over_leaving_one_human_out() -> None:
    for k in range(11):
        said = [True] * k + [False] * (10 - k)
        left_out = [min(1, (sum(said) - one) / 3) for one in said]
        assert agreement(k) == pytest.approx(sum(left_out) / 10)


def test_vqav2s_own_tool_spells_human_answers_as_they_are() -> None:
    assert official_accuracy(["2"] * 10, "two") == 1
    assert official_accuracy(["two"] * 10, "two") == 0  # the prediction became 2
    assert official_accuracy(["yes."] * 10, "yes") == 0  # all equal: not even marks are taken off
    assert official_accuracy(["yes."] * 9 + ["no"], "yes") == 1
    assert official_accuracy(["red-ish"] * 3 + ["red"] * 7, "red ish") == pytest.approx(0.9)


def test_without_public_answers_there_is_no_accuracy() -> None:
    assert isnan(accuracy([], "red")) and isnan(official_accuracy([], "red"))


def test_marks_go_by_the_text_before_the_step() -> None:
    assert without_marks("a/b / c") == "ab  c"  # a slash stands beside a space, so all of them vanish
    assert without_marks("a/b") == "a b"
    assert without_marks("1,000/x") == "1000x"  # a comma between digits: every mark vanishes
