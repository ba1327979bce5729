"""Video-MME: the authors' prompt, rule and mean, and lmms-eval's."""

from __future__ import annotations

from typing import Any

import pytest

from bench.tasks.videomme import VideoMME, authors, lmms_eval
from bench.tasks.videos import VideoFile

OPTIONS = dict.fromkeys("ABCD", "")


@pytest.mark.parametrize(
    ("text", "by_authors", "by_lmms"),
    [
        ("A", "A", "A"), ("B.", "B", "B"), ("The best answer is: C", "C", "C"), ("(D) Brown hat.", "D", "D"),
        ("Because it is D", "B", "D"), ("none of them", None, None), ("", None, None), ("a", None, None),
        ("The answer is not here", None, None),
    ],
)  # fmt: skip
def test_letters(text: str, by_authors: str | None, by_lmms: str | None) -> None:
    """The authors take the first capital behind a usual beginning, that of a word among them."""
    assert (authors(text, OPTIONS), lmms_eval(text, OPTIONS)) == (by_authors, by_lmms)


def video(number: int, duration: str) -> dict[str, Any]:
    questions = [
        {
            "question_id": f"{number:03d}-{turn}", "task_type": kind, "question": "What does she wear?",
            "choices": ["A. Black shirts.", "B. Blue shirts.", "C. Red skirts.", "D. Brown hat."],
            "answer": "D",
        }
        for turn, kind in enumerate(("Counting Problem", "Object Reasoning"), 1)
    ]  # fmt: skip
    return {
        "video_id": f"{number:03d}", "duration_category": duration, "video_category": "Knowledge",
        "video_subcategory": "Law", "url": f"https://www.youtube.com/watch?v=y{number}",
        "questions": questions,
    }  # fmt: skip


@pytest.fixture
def folder(files: Any) -> Any:
    files.json("video-mme/output_test_template.json", [video(1, "short"), video(2, "long")])
    files.image("video-mme/data/y1.mkv")
    files.sizes(video_mme__test=4)
    return files


def test_prompts(folder: Any) -> None:
    listed = "What does she wear?\nA. Black shirts.\nB. Blue shirts.\nC. Red skirts.\nD. Brown hat.\n"
    only = "Respond with only the letter (A, B, C, or D) of the correct option.\n"
    select = "Select the best answer to the following multiple-choice question based on the video"
    ours = VideoMME(protocol="llava").load(folder.root)[0]
    assert ours.question == f"{select}. {only}{listed}The best answer is:"
    theirs = VideoMME(protocol="lmms-eval").load(folder.root)[0]
    end = "\nAnswer with the option's letter from the given choices directly."
    assert theirs.question == f"{select} and the subtitles. {only}{listed}{end}"
    assert theirs.answers == ("D",)


def test_videos_are_found_by_their_name_on_youtube(folder: Any) -> None:
    first, _, other, _ = VideoMME(protocol="llava", frames=8).load(folder.root)
    assert isinstance(first.picture, VideoFile) and isinstance(other.picture, VideoFile)
    assert (first.picture.name, first.picture.sampling.count) == ("y1.mkv", 8)
    assert (other.picture.name, other.picture.size) == ("y2.mp4", None)
    assert len(first.picture().frames) == 1


def test_the_authors_leave_answers_without_a_letter_out(folder: Any) -> None:
    said = ["D", "none", "D", "A"]
    for protocol, score, short in (("llava", 100 * 2 / 3, 100), ("lmms-eval", 50, 50)):
        task = VideoMME(protocol=protocol)  # type: ignore[arg-type]
        samples = task.load(folder.root)
        assert task.score(samples, said) == pytest.approx(score)
        found = task.subscores(samples, said)
        assert (found["unreadable"], found["short"], found["long"]) == (25, short, 50)
        assert found["Law"] == found["Knowledge"] == pytest.approx(score)
        assert found["Counting Problem"] == 100


def test_questions_about_one_video_are_no_independent_evidence(folder: Any) -> None:
    task = VideoMME(protocol="llava")
    assert task.images(task.load(folder.root)) == ("video-mme/y1",) * 2 + ("video-mme/y2",) * 2


def test_another_length_is_refused(folder: Any) -> None:
    folder.json("video-mme/output_test_template.json", [video(1, "short"), video(2, "endless")])
    with pytest.raises(ValueError, match="question 002-1: its video is 'endless'"):
        VideoMME(protocol="llava").load(folder.root)
