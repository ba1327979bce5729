"""MVBench: the authors' prompt and rule, and lmms-eval's; whole videos with bounds, and cut ones."""

from __future__ import annotations

from typing import Any

import pytest

from bench.tasks.mvbench import SYSTEM, MVBench, authors, lmms_eval
from bench.tasks.videos import VideoFile
from compress.video import Sampling

OPTIONS = dict.fromkeys("ABCD", "")


@pytest.mark.parametrize(
    ("text", "by_authors", "by_lmms"),
    [
        ("A", "A", "A"), ("(B) Up.", "B", "B"), ("C.", "C", "C"), ("d", "D", "D"), ("B. Down", "B", "B"),
        ("A) it", "A", "A"), ("(", None, None), ("", None, None), ("Up.", None, None),
        ("The answer is (C)", None, "C"), ("It is a dog", None, "A"), ("E", None, "E"),
        ("b.\nnot c", None, "B"), ("D-", None, "D"), ("(c)(d)", None, "C"), ("x-a - b", None, "B"),
    ],
)  # fmt: skip
def test_letters(text: str, by_authors: str | None, by_lmms: str | None) -> None:
    """The authors look at the first word. lmms-eval finds any single letter, the article among them, and a
    mark that stands beside a space anywhere goes everywhere.
    """
    assert (authors(text, OPTIONS), lmms_eval(text, OPTIONS)) == (by_authors, by_lmms)


def record(video: str, **more: Any) -> dict[str, Any]:
    return {
        "video": video,
        "question": "Which way?",
        "candidates": ["Up.", "Down."],
        "answer": "Down.",
    } | more


@pytest.fixture
def folder(files: Any) -> Any:
    files.json("mvbench/json/moving_direction.json", [record("a.mp4"), record("b.mp4")])
    files.json("mvbench/json/action_sequence.json", [record("c.mp4", start=1.5, end=4)])
    files.json("mvbench/json/episodic_reasoning.json", [record("d", start=2, end=3)])
    for name in (
        "star/Charades_v1_480/c.mp4",
        "tvqa/frames_fps3_hq/d/00001.jpg",
        "clevrer/video_validation/a.mp4",
    ):
        files.image(f"mvbench/video/{name}")
    files.sizes(mvbench__train=4)
    return files


def videos(task: MVBench, root: Any) -> dict[str, VideoFile]:
    found = {one.id: one.picture for one in task.load(root)}
    assert all(isinstance(one, VideoFile) for one in found.values())
    return found  # type: ignore[return-value]


def test_whole_videos_have_bounds_and_cut_ones_have_none(folder: Any) -> None:
    found = videos(MVBench(protocol="llava"), folder.root)
    assert found["moving_direction-0"].sampling == Sampling(32)
    assert found["action_sequence-0"].sampling == Sampling(32, between=(1.5, 4))
    assert (found["episodic_reasoning-0"].fps, found["episodic_reasoning-0"].size) == (3, 1)
    assert videos(MVBench(protocol="lmms-eval"), folder.root)["action_sequence-0"].sampling.between == (
        1.5,
        4,
    )
    folder.image("mvbench/video/star/Charades_segment/c.mp4")
    assert videos(MVBench(protocol="lmms-eval"), folder.root)["action_sequence-0"].sampling.between is None
    assert videos(MVBench(protocol="llava"), folder.root)["action_sequence-0"].sampling.between == (1.5, 4)


def test_a_converted_video_is_found_under_its_new_name(folder: Any) -> None:
    folder.json("mvbench/json/moving_direction.json", [record("a.avi"), record("missing.avi")])
    found = videos(MVBench(protocol="llava"), folder.root)
    assert (found["moving_direction-0"].name, found["moving_direction-1"].size) == ("a.mp4", None)
    with pytest.raises(ValueError, match="there is no video at .*missing.avi"):
        found["moving_direction-1"]()


def test_prompts(folder: Any) -> None:
    listed = "(A) Up.\n(B) Down.\nOnly give the best option."
    ours = MVBench(protocol="llava").load(folder.root)[0]
    assert ours.question == f"{SYSTEM}Question: Which way?\nOptions:\n{listed}"
    theirs = MVBench(protocol="lmms-eval").load(folder.root)[0]
    assert theirs.question == f"Question:Which way?\nOption:\n{listed}\n"
    assert (theirs.answers, theirs.info["options"]) == (("B",), ("Up.", "Down."))


def test_lmms_eval_leaves_empty_answers_out(folder: Any) -> None:
    said = ["B", "", "A", "B"]
    for protocol, score in (("llava", 50), ("lmms-eval", 100 * 2 / 3)):
        task = MVBench(protocol=protocol)  # type: ignore[arg-type]
        samples = task.load(folder.root)
        assert task.score(samples, said) == pytest.approx(score)
        kinds = {one.family for one in samples}
        assert kinds < set(task.subscores(samples, said))


def test_an_answer_that_is_no_candidate_is_refused(folder: Any) -> None:
    folder.json("mvbench/json/moving_direction.json", [record("a.mp4"), record("b.mp4", answer="Left.")])
    with pytest.raises(ValueError, match="moving_direction-1: the answer 'Left.' is none of its candidates"):
        MVBench(protocol="llava").load(folder.root)


def test_few_questions_are_of_all_kinds(folder: Any) -> None:
    task = MVBench(protocol="llava")
    assert len({task.stratum(one) for one in task.load(folder.root, 3)}) == 3
