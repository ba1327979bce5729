"""Videos of data sets, and the miniatures about clips."""

from __future__ import annotations

import pickle
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from bench.tasks import VIDEOS
from bench.tasks.clips import Clips
from bench.tasks.load import load_tasks
from bench.tasks.mixture import labelled_samples, training_samples
from bench.tasks.mvbench import MVBench
from bench.tasks.videos import VideoFile
from compress.micro.worlds import MICRO, VIDEO, scene_of, world_of
from compress.video import Sampling, Video


def test_a_file_is_told_from_others_without_opening_it(tmp_path: Path) -> None:
    for name in "a.mp4", "b.mp4":
        (tmp_path / name).write_bytes(b"no video")
    keys = {
        VideoFile(tmp_path, name, sampling, fps).key
        for name in ("a.mp4", "b.mp4", "none.mp4")
        for sampling in (Sampling(8), Sampling(9), Sampling(8, between=(1, 2)), Sampling(rate=2))
        for fps in (1.0, 3.0)
    }
    assert len(keys) == 24 and not any(str(tmp_path) in key for key in keys)
    before = VideoFile(tmp_path, "a.mp4", Sampling()).key
    (tmp_path / "a.mp4").write_bytes(b"another")
    assert VideoFile(tmp_path, "a.mp4", Sampling()).key != before


def test_a_name_that_leads_out_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="leads out of"):
        VideoFile(tmp_path, "../a.mp4", Sampling())


def test_folders_of_frames_are_videos(tmp_path: Path) -> None:
    (tmp_path / "film").mkdir()
    for number in range(5):
        Image.new("RGB", (8, 6), (40 * number, 0, 0)).save(tmp_path / "film" / f"{number}.png")
    found = pickle.loads(pickle.dumps(VideoFile(tmp_path, "film", Sampling(3), 2.0)))()
    assert found.times == (0, 1, 2)


@pytest.mark.parametrize("name", VIDEOS)
def test_miniatures_show_clips_whatever_world_the_model_knows(name: str) -> None:
    for world in MICRO, VIDEO:
        ((task, samples),) = load_tasks([name], 12, world=world).items()
        assert task.name == name and len({one.id for one in samples}) == 12
        assert all(scene_of(one.picture)[0] is VIDEO for one in samples)  # type: ignore[index]
        shown = samples[0].visual
        assert isinstance(shown, Video) and len(shown.frames) == 16
    assert samples[0].id.startswith(f"video-{name}-test")


def test_clips_ask_every_family_in_turn() -> None:
    asked = Counter(one.family for one in Clips().micro(16))
    assert asked == dict.fromkeys(VIDEO.asked["clips"], 2)


def test_tasks_about_images_are_refused_for_a_model_of_clips() -> None:
    assert world_of("runs/micro-video") is VIDEO and world_of("LLaVA-NeXT-Video-7B-hf") is MICRO
    with pytest.raises(ValueError, match="'gqa' is about images.*mvbench, video-mme, clips"):
        load_tasks(["clips", "gqa"], 2, world=VIDEO)


def test_the_mixture_has_clips() -> None:
    made = training_samples(24, world=VIDEO)
    again = labelled_samples([f"mixture/{one.id}" for one in made[:3]])
    assert [one.question for one in again] == [one.question for one in made[:3]]
    assert len({one.family for one in made}) > 6
    assert pickle.loads(pickle.dumps(made[0])).fingerprint == made[0].fingerprint


def test_enlarged_clips_show_the_same() -> None:
    small, large = (Clips().micro(1)[0].visual_at(side) for side in (0, 200))
    assert (small.size, large.size) == ((96, 96), (192, 192))


def test_the_hub_has_no_videos(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="its videos are not in its tables: give --data a folder"):
        MVBench(protocol="llava").load("hub:OpenGVLab")


@pytest.mark.parametrize("wrong", ["0", "-3"])
def test_no_frames_are_refused(wrong: str) -> None:
    with pytest.raises(ValueError, match="at least one frame"):
        load_tasks([f"video-mme:frames={wrong}"], 2)
