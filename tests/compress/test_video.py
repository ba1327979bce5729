"""Videos from files, folders and arrays: which frames are taken, upright, and what is refused."""

from __future__ import annotations

import os
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from compress import reels, video
from compress.video import Sampling, Video, read_video

av = pytest.importorskip("av")
WIDE, HIGH = 64, 48


def frame(number: int) -> np.ndarray:
    """Grey that tells its number, with a red corner above left."""
    pixels = np.full((HIGH, WIDE, 3), 40 + 5 * number, np.uint8)
    pixels[: HIGH // 2, : WIDE // 2] = 255, 0, 0
    return pixels


def number_of(image: Image.Image) -> int:
    """Which frame it is, by the grey of its middle."""
    right = np.asarray(image, float)[HIGH // 2 + 8 : HIGH - 8, WIDE // 2 + 8 : WIDE - 8]
    return round((right.mean() - 40) / 5)


def write(
    path: Path, codec: str = "libx264", frames: int = 40, fps: int = 10, *, key: int = 12, turned: int = 0,
    times: Sequence[int] | None = None, sound: bool = False, **options: str,
) -> Path:  # fmt: skip
    """A film whose frames tell their numbers, a key frame every `key`."""
    with av.open(path, "w", options={"movflags": "faststart"} if path.suffix == ".mp4" else {}) as container:
        stream = container.add_stream(codec, rate=fps, options=options)
        stream.width, stream.height = WIDE, HIGH
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.codec_context.gop_size, stream.bit_rate = key, 2_000_000
        if turned:
            stream.set_display_rotation(turned)
        loud = container.add_stream("aac", rate=8000) if sound else None
        for number in range(frames):
            one = av.VideoFrame.from_ndarray(frame(number), "rgb24")
            one.pts = number
            for packet in stream.encode(one):
                if times:
                    packet.pts = packet.dts = times[number] * 1000 // fps  # Matroska counts milliseconds
                    packet.time_base = Fraction(1, 1000)
                container.mux(packet)
        container.mux(stream.encode())
        if loud:
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), "fltp", "mono")
            silence.sample_rate = 8000
            container.mux(loud.encode(silence))
            container.mux(loud.encode())
    return path


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("film") / "film.mp4")


def test_frames_are_taken_evenly_from_the_first_to_the_last(film: Path) -> None:
    found = read_video(film, count=5)
    assert [number_of(one) for one in found.frames] == [0, 9, 19, 29, 39]  # linspace(0, 39, 5), cut
    assert found.times == pytest.approx([0, 0.9, 1.9, 2.9, 3.9])
    assert (found.size, found.frames[0].mode) == ((WIDE, HIGH), "RGB")
    assert [number_of(one) for one in read_video(film, count=1).frames] == [0]


def test_a_rate_says_how_many_frames_and_a_count_how_many_at_most(film: Path) -> None:
    assert [round(10 * time) for time in read_video(film, rate=2).times] == [0, 5, 11, 16, 22, 27, 33, 39]
    assert len(read_video(film, rate=2, count=3).frames) == 3
    assert len(read_video(film, rate=0.01).frames) == 1
    assert len(read_video(film, rate=10).frames) == len(read_video(film, rate=1000).frames) == 40


def test_a_short_video_gives_all_its_frames_and_a_long_one_32(film: Path) -> None:
    assert [number_of(one) for one in read_video(film, count=900).frames] == list(range(40))
    assert len(read_video(film).frames) == 32


def test_a_part_is_taken_between_two_seconds(film: Path) -> None:
    found = read_video(film, count=3, between=(1.0, 2.0))
    assert [number_of(one) for one in found.frames] == [10, 15, 20]
    assert found.times == pytest.approx([1.0, 1.5, 2.0])
    with pytest.raises(ValueError, match=r"no frame is shown from 9 to 12 s; the last is at 3.9 s"):
        read_video(film, between=(9, 12))


FORMATS: list[tuple[str, str, dict[str, Any]]] = [
    ("b-frames.mp4", "mpeg4", {"bf": "2"}),
    ("film.avi", "mpeg4", {}),
    ("b-frames.avi", "mpeg4", {"bf": "2"}),
    ("film.mkv", "libx264", {}),
    ("film.webm", "libvpx-vp9", {}),
    ("film.ts", "mpeg2video", {"bf": "2"}),
    ("film.flv", "flv", {}),
    ("intra.mp4", "libx264", {"key": 1}),
    ("one-key.mp4", "libx264", {"key": 250}),
    ("sound.mp4", "libx264", {"sound": True}),
]


@pytest.mark.parametrize(("name", "codec", "options"), FORMATS)
def test_every_container_gives_the_same_frames(
    name: str, codec: str, options: dict[str, Any], tmp_path: Path
) -> None:
    path = write(tmp_path / name, codec, **options)
    found = read_video(path, count=5)
    assert [number_of(one) for one in found.frames] == [0, 9, 19, 29, 39]
    assert found.times == pytest.approx([0, 0.9, 1.9, 2.9, 3.9], abs=0.11)
    assert [number_of(one) for one in read_video(path, between=(2.9, 3.3)).frames] == [29, 30, 31, 32, 33]


def test_frames_of_uneven_times_keep_theirs(tmp_path: Path) -> None:
    path = write(tmp_path / "uneven.mkv", "mjpeg", frames=6, times=[0, 1, 2, 30, 31, 90])
    assert read_video(path, count=6).times == pytest.approx([0, 0.1, 0.2, 3, 3.1, 9])


def test_a_turned_film_is_upright(tmp_path: Path) -> None:
    for turned, corner in (90, (4, 60)), (180, (60, 44)), (-90, (44, 4)):
        (one,) = read_video(write(tmp_path / f"{turned}.mp4", frames=1, turned=turned)).frames
        assert one.size == ((WIDE, HIGH) if turned == 180 else (HIGH, WIDE))
        red, green, _ = one.getpixel(corner)  # type: ignore[misc]
        assert red > 200 and green < 60, turned


def test_most_of_a_long_film_is_not_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "long.mp4", frames=44, key=11)
    seen = []
    shown = reels._stamp

    def noted(one: Any) -> Any:
        if isinstance(one, av.VideoFrame):
            seen.append(one)
        return shown(one)

    monkeypatch.setattr(reels, "_stamp", noted)
    assert [number_of(one) for one in read_video(path, count=2).frames] == [0, 43]
    assert len(set(map(id, seen))) <= 16


def test_folders_are_read_in_natural_order_and_only_what_is_taken(tmp_path: Path) -> None:
    for number in range(12):
        Image.fromarray(frame(number)).save(tmp_path / f"f{number}.png")
    (tmp_path / "f3.png").write_bytes(b"broken")
    (tmp_path / "notes.txt").write_text("")
    (tmp_path / ".f0.png").write_text("")
    found = read_video(tmp_path, count=3, fps=4)
    assert [number_of(one) for one in found.frames] == [0, 5, 11]
    assert found.times == (0, 1.25, 2.75)
    assert read_video(tmp_path, count=2).times == (0, 11)
    with pytest.raises(ValueError, match=r"f3.png cannot be read as an image"):
        read_video(tmp_path)


def test_arrays_are_videos() -> None:
    array = np.stack([frame(number) for number in range(7)])
    found = read_video(array, rate=1, fps=2)
    assert ([number_of(one) for one in found.frames], found.times) == ([0, 3, 6], (0, 1.5, 3.0))
    for wrong in array[0], array.astype(np.float32), array[:0], array[..., :1]:
        with pytest.raises(ValueError, match=r"a video is \[F, H, W, 3\], uint8"):
            read_video(wrong)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_moving_pictures_keep_their_times(kind: str, tmp_path: Path) -> None:
    first, *others = [Image.fromarray(frame(number)) for number in range(5)]
    path = tmp_path / "moving"
    first.save(path, kind, save_all=True, append_images=others, duration=[100, 200, 300, 400, 50])
    found = read_video(path, count=3)
    assert [number_of(one) for one in found.frames] == [0, 2, 4]
    assert found.times == pytest.approx([0, 0.3, 1.0])
    assert found.frames[0].mode == "RGB"


def test_a_gif_without_times_is_shown_as_browsers_do(tmp_path: Path) -> None:
    first, other = Image.fromarray(frame(0)), Image.fromarray(frame(9))
    first.save(tmp_path / "a.gif", save_all=True, append_images=[other], duration=0)
    assert read_video(tmp_path / "a.gif").times == (0, 0.1)


def test_one_frame_is_a_video(tmp_path: Path) -> None:
    for path in write(tmp_path / "one.mp4", frames=1), write(tmp_path / "one.avi", "mpeg4", frames=1):
        assert read_video(path, count=8).times == read_video(path, rate=30).times == (0,)
    Image.fromarray(frame(3)).save(tmp_path / "one.png")
    assert number_of(read_video(tmp_path / "one.png").frames[0]) == 3


def test_what_is_no_video_is_refused_with_its_name(tmp_path: Path, film: Path) -> None:
    def refused(name: str, content: bytes, why: str) -> None:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=rf"{name} cannot be read as a video \({why}") as told:
            read_video(tmp_path / name)
        assert "\n" not in str(told.value)

    refused("empty.mp4", b"", "it is empty")
    refused("noise.mp4", os.urandom(9999), "it is none, or broken")
    refused("text.mp4", b"a text and no video\n" * 99, "it is ")
    whole = film.read_bytes()
    refused("half.mp4", whole[: len(whole) // 2], r"it is cut: it should be 4.0 s long and ends at 0")
    refused("head.mp4", whole[:200], "it ")
    mkv = write(tmp_path / "whole.mkv", sound=True).read_bytes()
    refused("half.mkv", mkv[: len(mkv) // 2], "it is cut: it should be 4.0 s long")
    with pytest.raises(ValueError, match="there is no video at .*nothing.mp4"):
        read_video(tmp_path / "nothing.mp4")
    os.mkfifo(tmp_path / "pipe.mp4")
    with pytest.raises(ValueError, match="this is a FIFO"):
        read_video(tmp_path / "pipe.mp4")
    (tmp_path / "folder").mkdir()
    with pytest.raises(ValueError, match=r"folder has no pictures \(.png"):
        read_video(tmp_path / "folder")


def test_frames_that_share_one_time_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "still.mkv", "mjpeg", frames=4, times=[0, 0, 0, 0])
    with pytest.raises(ValueError, match=r"\(it has no length: its 4 frames are shown at one time"):
        read_video(path)


def test_sound_alone_is_refused(tmp_path: Path) -> None:
    with av.open(tmp_path / "sound.mp4", "w") as container:
        stream = container.add_stream("aac", rate=8000)
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), "fltp", "mono")
        silence.sample_rate = 8000
        container.mux(stream.encode(silence))
        container.mux(stream.encode())
    with pytest.raises(ValueError, match=r"sound.mp4 cannot be read as a video \(it has no video stream"):
        read_video(tmp_path / "sound.mp4")


def test_more_frames_than_memory_are_refused_before_they_are_read(
    film: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(video, "LARGEST", 5 * WIDE * HIGH * 3)
    assert len(read_video(film, count=5).frames) == 5
    with pytest.raises(ValueError, match=r"6 frames of 64 x 48 pixels take .* GiB.*take fewer of them"):
        read_video(film, count=6)
    monkeypatch.setattr(reels, "PIXELS", WIDE * HIGH - 1)
    with pytest.raises(ValueError, match="a frame has 64 x 48 pixels; at most"):
        read_video(film, count=1)
    Image.new("P", (WIDE, HIGH)).save(path := film.with_suffix(".gif"))
    with pytest.raises(ValueError, match="a frame has 64 x 48 pixels; at most"):
        read_video(path)


def test_frames_of_a_folder_have_one_size(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "0.png")
    Image.new("RGB", (8, 9)).save(tmp_path / "1.png")
    with pytest.raises(ValueError, match="1.png has 8 x 9 pixels, and the first frame 8 x 8"):
        read_video(tmp_path)


@pytest.mark.parametrize("wrong", [{"count": 0}, {"count": 1.5}, {"rate": 0}, {"rate": float("nan")}])
def test_settings_that_allow_no_frame_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"^{next(iter(wrong))}="):
        Sampling(**wrong)
    with pytest.raises(ValueError, match="^between="):
        Sampling(between=(3, 1))
    with pytest.raises(ValueError, match="^fps="):
        read_video(np.zeros((1, 2, 2, 3), np.uint8), fps=0)


def test_without_pyav_files_say_what_to_install(
    film: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    with pytest.raises(ValueError, match=r"pip install 'evocomp\[video\]'"):
        read_video(film)
    Image.fromarray(frame(0)).save(tmp_path / "0.png")
    assert isinstance(read_video(tmp_path), Video)
