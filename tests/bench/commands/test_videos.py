"""Videos on the command line: what is one, which frames are read, and what is refused in one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from bench.evaluation.opening import drawn_at, open_visual
from compress.models.loading import MLLM
from tests.cli import refused, run

QUESTION = "what color is the star ?"


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory, pictures: list[Image.Image]) -> Path:
    """A folder of frames, a GIF of them, and what is no video."""
    folder = tmp_path_factory.mktemp("films")
    (folder / "frames").mkdir()
    for number, picture in enumerate(pictures):
        picture.save(folder / "frames" / f"{number}.png")
    pictures[0].save(folder / "film.gif", save_all=True, append_images=pictures[1:], duration=500)
    (folder / "empty.mp4").write_bytes(b"")
    return folder


def test_folders_are_videos_and_files_are_with_frames_or_rate(films: Path, tiny_qwen: MLLM) -> None:
    def times(name: str, *more: str) -> list[float] | None:
        model = "--model", tiny_qwen.name, "--method", "grid", "--keep", "2", "--max-new-tokens", "1"
        result = run("ask", films / name, QUESTION, *model, *more, "--json")
        assert result.exit_code == 0, result.output
        found: list[float] | None = json.loads(result.stdout)["times"]
        return found

    assert times("frames") == [0, 1, 2, 3]
    assert times("frames", "--rate", "0.5") == [0, 3]
    assert times("film.gif") is None
    assert times("film.gif", "--frames", "3") == [0, 0.5, 1.5]


def test_the_frames_are_told_and_drawn(films: Path, tiny_qwen: MLLM, tmp_path: Path) -> None:
    out = tmp_path / "kept.png"
    command = "--model", tiny_qwen.name, "--method", "grid", "--keep", "2", "--max-new-tokens", "1"
    result = run("ask", films / "frames", QUESTION, *command, "--frames", "9", "--out", out)
    assert "4 frames from 0.0 to 3.0 s, 1.00 s apart (it has no more; 9 were asked for)" in result.stderr
    assert Image.open(out).size[0] > 2 * Image.open(out).size[1]  # a film strip
    drawn = run("draw", "kept", films / "frames", QUESTION, "--methods", "grid", *command[:2], "--keep", "2",
                "--out", tmp_path / "methods.png")  # fmt: skip
    assert drawn.exit_code == 0, drawn.output
    found = run("search", films / "frames", QUESTION, *command[:2], "--answer", "red", "--keep", "2",
                "--evaluations", "4", "--strategy", "random", "--out", tmp_path / "found")  # fmt: skip
    assert found.exit_code == 0, found.output
    shapes = [Image.open(tmp_path / "found" / f"{name}.png").size for name in ("groups", "kept")]
    assert shapes[0] == shapes[1] and shapes[0][0] > 2 * shapes[0][1]


def test_what_is_no_video_is_refused(films: Path, tiny_folder: Path) -> None:
    def line(name: object, *more: str) -> str:
        return refused(
            "ask", name, QUESTION, "--model", tiny_folder, "--method", "grid", "--keep", "9", *more
        )

    assert "empty.mp4 cannot be read as a video (it is empty)" in line(films / "empty.mp4")
    assert "there is no video at" in line(films / "nothing.mp4")
    assert "reads no videos: give their frames as images" in line(films / "frames")
    assert "a scene has its own frames; leave out --frames" in line("micro:3", "--frames", "4")
    assert "give an image or video file" in line(films / "nothing.png")


def test_a_file_is_read_once_and_a_scene_is_drawn_for_the_model(tmp_path: Path):
    """Commands open what they are given before they load a model, whose side only scenes follow."""
    path = tmp_path / "picture.png"
    Image.new("RGB", (40, 30)).save(path)
    opened = open_visual(str(path))
    assert drawn_at(str(path), opened, 192) is opened
    scene = open_visual("micro:3")
    assert drawn_at("micro:3", scene, 192).size == (192, 192) != scene.size
