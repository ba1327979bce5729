"""Samples about images and videos, opened when they are looked at."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from PIL import Image

from compress.samples import Sample
from compress.video import Video


def frames(*colors: str) -> tuple[Image.Image, ...]:
    return tuple(Image.new("RGB", (6, 4), color) for color in colors)


@dataclass(frozen=True)
class Reel:
    """A source that tells how often it was opened."""

    opened: list[int]
    key: str = "reel"

    def __call__(self) -> Video:
        self.opened.append(1)
        return Video(frames("red", "blue"), (0, 1))


@dataclass(frozen=True)
class Filmed(Reel):
    def at(self, side: int) -> Video:
        return Video(tuple(Image.new("RGB", (side, side)) for _ in range(2)), (0, 1))


def test_a_video_is_there_or_opened_when_it_is_looked_at() -> None:
    there = Video(frames("red"), (0,))
    assert Sample("a", there, "?", ()).visual is there
    reel = Reel([])
    sample = Sample("a", reel, "?", ())
    assert sample.picture_digest and sample.fingerprint and reel.opened == []
    assert isinstance(sample.visual, Video) and isinstance(sample.visual_at(99), Video)
    assert len(reel.opened) == 2


def test_a_film_has_the_size_that_is_asked_for() -> None:
    assert Sample("a", Filmed([]), "?", ()).visual_at(24).size == (24, 24)


def test_what_works_with_images_alone_names_the_sample_of_a_video() -> None:
    sample = Sample("clips-7", Filmed([]), "?", ())
    for look in lambda: sample.image, lambda: sample.image_at(24):
        with pytest.raises(ValueError, match="clips-7 is about a video"):
            look()
    image = Sample("a", frames("red")[0], "?", ())
    assert image.image == image.image_at(3) == image.visual == image.visual_at(3)


def test_videos_are_told_apart_by_frames_and_times() -> None:
    videos = [
        Video(frames("red", "blue"), (0, 1)), Video(frames("blue", "red"), (0, 1)),
        Video(frames("red", "blue"), (0, 2)), Video(frames("red"), (0,)),
    ]  # fmt: skip
    assert len({Sample("a", one, "?", ()).picture_digest for one in videos}) == 4
    again = Video(frames("red", "blue"), (0, 1))
    assert Sample("b", again, "?", ()).picture_digest == Sample("a", videos[0], "?", ()).picture_digest
