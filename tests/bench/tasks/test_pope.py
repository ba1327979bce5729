"""POPE: the official reading of answers, three F1, and questions joined to labels by content."""

from __future__ import annotations

from typing import Any

import pytest

from bench.tasks import TASKS
from bench.tasks.pope import Pope, official, robust, strict
from compress.samples import Sample

SUBSETS = ("random", "popular", "adversarial")


@pytest.mark.parametrize(
    ("said", "yes"),
    [
        ("Yes", True), ("No.", False), ("NO", True), ("No!", True), ("Nope", True), ("None", True),
        ("I don't see one", True), ("There isn't any", True), ("", True), ("No\n", True), ("not sure", False),
        ("Yes, no doubt", False), ("it is not. yes", False),
    ],
)  # fmt: skip
def test_official_rule_vectors(said: str, yes: bool) -> None:
    assert official(said) is yes


def test_the_other_rules() -> None:
    assert [robust(said) for said in ("Yes.", "NO", "None", "", "Yes, no doubt")] == [
        True,
        False,
        False,
        False,
        True,
    ]
    assert [strict(said) for said in (" YES ", "no", "no.", "maybe")] == [True, False, None, None]


def rows(n: int, subset: str) -> list[dict[str, Any]]:
    return [
        {"question_id": i + 1, "image": f"COCO_val2014_{i // 2:012d}.jpg", "label": ("yes", "no")[i % 2],
         "text": f"Is there a {('dog', 'cat')[i % 2]} {subset} in the image?"}
        for i in range(n)
    ]  # fmt: skip


@pytest.fixture
def folder(files: Any) -> Any:
    for subset in SUBSETS:
        files.lines(f"pope/coco_pope_{subset}.json", rows(4, subset))
    for i in range(2):
        files.image(f"pope/val2014/COCO_val2014_{i:012d}.jpg")
    files.sizes(pope__test=12)
    return files


def test_official_files_are_asked_with_llavas_prompt(folder: Any) -> None:
    samples = Pope(protocol="llava").load(folder.root)
    assert [s.id for s in samples[:5]] == ["random-1", "random-2", "random-3", "random-4", "popular-1"]
    assert samples[0].question == (
        "Is there a dog random in the image?\nAnswer the question using a single word or phrase."
    )
    assert samples[1].answers == ("no",) and samples[1].info["subset"] == "random"
    assert samples[0].image.size == (8, 8)  # padded
    assert Pope(protocol="micro").load(folder.root)[0].question == "Is there a dog random in the image?"


def answered(said: str) -> tuple[list[Sample], list[str]]:
    """Every subset asked twice, once with a dog and once without."""
    samples = [
        Sample(f"{subset}-{label}", None, "?", (label,), info={"subset": subset})  # type: ignore[arg-type]
        for subset in SUBSETS
        for label in ("yes", "no")
    ]
    return samples, [said] * 6


def test_published_is_the_mean_of_three_f1_and_lmms_eval_pools() -> None:
    """Trap 2: the two are other quantities, and the metric says which it is."""
    samples, _ = answered("")
    said = ["yes", "yes", "no", "no", "yes", "no"]  # F1 of 2/3, 0 and 1
    assert Pope(protocol="llava").score(samples, said) == pytest.approx(100 * (2 / 3 + 0 + 1) / 3)
    assert Pope(protocol="lmms-eval").score(samples, said) == pytest.approx(100 * 2 * 2 / (2 * 2 + 1 + 1))
    assert Pope(protocol="llava").metric == "mean F1"
    assert Pope(protocol="lmms-eval").metric == "pooled F1"


def test_unreadable_answers_are_yes_officially_and_in_no_cell_of_lmms_eval() -> None:
    samples, said = answered("I cannot tell")
    assert Pope(protocol="llava").score(samples, said) == pytest.approx(100 * 2 / 3)
    harness = Pope(protocol="lmms-eval")
    assert harness.score(samples, said) == 0 and harness.credit(samples, said).sum() == 0
    assert harness.statistics(samples, said).sum() == 0


def test_subscores_tell_accuracy_yes_rate_and_where_the_rules_part() -> None:
    samples, _ = answered("")
    found = Pope(protocol="llava").subscores(samples, ["NO"] * 3 + ["no"] * 3)
    assert found["said yes"] == 50 and found["random said yes"] == 100 and found["rules differ"] == 50
    assert found["accuracy"] == found["recall"] == pytest.approx(200 / 3)
    assert found["adversarial F1"] == 0
    always = Pope(protocol="llava").subscores(samples, ["yes"] * 6)
    assert (always["precision"], always["recall"], always["accuracy"]) == (50, 100, 50)
    assert Pope(protocol="llava", rule="robust").subscores(samples, ["NO"] * 6)["said yes"] == 0


def llava_lines(n: dict[str, int]) -> list[dict[str, Any]]:
    asked = []
    for subset in SUBSETS:
        for row in reversed(rows(n[subset], subset)):  # another order than the labels have
            text = f"{row['text']}\nAnswer the question using a single word or phrase."
            asked.append({"question_id": len(asked), "image": row["image"], "text": text, "category": subset})
    return asked


def test_llavas_questions_are_joined_by_content(folder: Any) -> None:
    """Trap 2: labels go with category, image and text, whatever the position."""
    asked = llava_lines(dict.fromkeys(SUBSETS, 4))
    folder.lines("pope/llava_pope_test.jsonl", asked)
    samples = Pope(protocol="llava").load(folder.root)
    assert [s.question for s in samples] == [row["text"] for row in asked]
    assert [s.id for s in samples[:2]] == ["random-0", "random-1"]
    for one in samples:
        assert one.answers == (("yes",) if " dog " in one.question else ("no",))


def test_llavas_shorter_file_is_refused_beside_todays_labels(folder: Any) -> None:
    """Trap 2: 2,910 questions and 3,000 labels would shift every answer."""
    folder.lines("pope/llava_pope_test.jsonl", llava_lines({"random": 3, "popular": 4, "adversarial": 4}))
    with pytest.raises(ValueError, match=r"has 3 random questions, but coco_pope_random\.json 4 labels"):
        Pope(protocol="llava").load(folder.root)


def test_a_question_without_a_label_is_refused(folder: Any) -> None:
    lines = llava_lines(dict.fromkeys(SUBSETS, 4))
    lines[0]["text"] = "Is there a bear in the image?"
    folder.lines("pope/llava_pope_test.jsonl", lines)
    with pytest.raises(ValueError, match="1 questions have no label.*bear"):
        Pope(protocol="llava").load(folder.root)


def test_both_published_sizes_are_known_and_told_apart() -> None:
    task = Pope(protocol="llava")
    whole = [
        Sample(f"{s}-{i}", None, "?", ("yes",), info={"subset": s})  # type: ignore[arg-type]
        for s in SUBSETS
        for i in range(3000)
    ]
    from bench.tasks.folder import Manifest

    assert list(task.miscounts(whole, Manifest())) == [] == list(task.notes(whole))
    shorter = whole[90:]
    assert list(task.miscounts(shorter, Manifest())) == []
    assert "2,910 random" in next(task.notes(shorter))
    cut = whole[:-90]  # 8,910 as well, but not where they may lack
    assert "2,910 adversarial questions, published are 3,000" in next(task.miscounts(cut, Manifest()))


def test_a_label_that_is_no_label_is_refused(folder: Any) -> None:
    folder.lines("pope/coco_pope_random.json", [rows(1, "random")[0] | {"label": "maybe"}])
    with pytest.raises(ValueError, match=r"label 'maybe' \(not yes or no\)"):
        Pope(protocol="llava").load(folder.root)


def test_lmms_labs_layout(files: Any) -> None:
    row = {
        "question_id": "0",
        "question": "Is there a dog?",
        "answer": "yes",
        "image": {"bytes": files.png(), "path": ""},
    }
    files.parquet(
        "pope/data/test-00000-of-00001.parquet",
        [
            row | {"question_id": str(i), "category": SUBSETS[i % 3], "image_source": f"COCO_{i // 3}"}
            for i in range(5)
        ],
    )
    files.sizes(pope__test=5)
    samples = TASKS["pope"](protocol="lmms-eval").load(files.root)
    assert [s.id for s in samples] == ["random-0", "popular-1", "adversarial-2", "random-3", "popular-4"]
    assert samples[4].image.size == (8, 6)
    images = TASKS["pope"](protocol="lmms-eval").images(samples)
    assert images == ("COCO_0", "COCO_0", "COCO_0", "COCO_1", "COCO_1")  # every row has its own copy
