"""MME: pairs of questions, accuracy and accuracy+ added up, and the authors' folders."""

from __future__ import annotations

from typing import Any

import pytest

from bench.tasks.mme import MME, ROOT, said

QUESTIONS = "Is there a {}? Please answer yes or no.\tYes\nIs there a {}? Please answer yes or no.\tNo\n"


@pytest.fixture
def folder(files: Any) -> Any:
    """Two images of existence side by side with their questions, one of scene in folders of its own, one of
    code."""
    for category, images, told, stem in (
        ("existence", "", "", "0001"),
        ("existence", "", "", "0002"),
        ("scene", "images", "questions_answers_YN", "a"),
        ("code_reasoning", "", "", "0001"),
    ):
        place = f"mme/{ROOT}/{category}"
        files.image(f"{place}/{images}/{stem}.jpg")
        files.image(f"{place}/{told}/{stem}.txt").write_text(QUESTIONS.format("dog", "cat"))
    files.sizes(mme__test=8)
    return files


def test_categories_of_both_layouts_are_read_in_pairs(folder: Any) -> None:
    samples = MME(protocol="llava").load(folder.root)
    assert [one.id for one in samples][:2] == ["existence/0001-0", "existence/0001-1"]
    assert [one.answers for one in samples] == [("yes",), ("no",)] * 4
    assert samples[0].question == "Is there a dog?\nAnswer the question using a single word or phrase."
    assert samples[4].image.size == (8, 8)  # padded


def test_the_score_adds_accuracy_and_accuracy_plus_of_every_category(folder: Any) -> None:
    """By hand, as the authors' tool: existence has 3 of 4 right and one pair of two, 75 + 50; scene has all,
    200; code has one of two, 50 + 0."""
    predictions = ["Yes", "No", "Yes", "Yes", "yes.", "no", "no", "no"]
    for abilities, expected, credit in (
        ("perception", 325, [1, 0.25, 1, 1]),  # what the score leaves out tells no methods apart
        ("cognition", 50, [1, 1, 1, 0.25]),
        ("total", 375, [1, 0.25, 1, 0.25]),
    ):
        task = MME(protocol="llava", abilities=abilities)  # type: ignore[arg-type]
        samples = task.load(folder.root)
        assert task.score(samples, predictions) == pytest.approx(expected)
        found = task.subscores(samples, predictions)
        assert found["perception"] == 325 and found["cognition"] == 50 and found["total"] == 375
        assert (found["existence"], found["scene"], found["code_reasoning"]) == (125, 200, 50)
        assert "color" not in found
        assert task.credit(samples, predictions).tolist() == credit


@pytest.mark.parametrize(
    ("text", "llava", "lmms"),
    [
        ("Yes", "yes", "yes"), ("no.", "no", "no"), ("Not sure", "no", "no"), ("I say yes", None, None),
        ("The yes", None, None), ("a yes", None, None), ("y", None, "yes"), ("N", None, "no"),
        (" Yes", "yes", "yes"), ("  yes", None, "yes"), ("", None, None), ("...yes", None, "yes"),
    ],
)  # fmt: skip
def test_the_first_four_characters_say_yes_or_no(text: str, llava: str | None, lmms: str | None) -> None:
    assert (said(text, "llava"), said(text, "lmms-eval")) == (llava, lmms)


def test_a_torn_pair_and_a_missing_image_are_refused(folder: Any) -> None:
    path = folder.root / "mme" / ROOT / "existence" / "0001.txt"
    path.write_text("Is there a dog? Please answer yes or no.\tYes\n")
    with pytest.raises(ValueError, match="another number of questions than two, .* 'existence/0001'"):
        MME(protocol="llava").load(folder.root)
    path.with_suffix(".jpg").unlink()
    with pytest.raises(ValueError, match="no image of the same name"):
        MME(protocol="llava").load(folder.root)
