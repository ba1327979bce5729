"""Videos as input of models: sampled frames and the time of each.

    read_video("film.mp4", count=16)        # a file, through PyAV
    read_video("frames/", rate=0.5, fps=3)  # a folder of pictures, three of which were taken in a second

The first frame is at second 0, whatever the first time stamp of its file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import isfinite
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image

from compress.documents import regular_file
from compress.reels import ArrayReel, FolderReel, Reel, opened
from evosearch.registry import cut

FRAMES = 32  # default number of frames of a video, as in most evaluation code
LARGEST = 4 << 30  # maximum bytes of the frames that are read from one video


@dataclass(frozen=True)
class Video:
    """Frames of one size, in order, and the second at which each is shown.

    ValueError if there are no frames, if frames differ in size, or if times do not increase.
    """

    frames: tuple[Image, ...]
    times: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.frames:
            raise ValueError("a video needs at least one frame")
        if len(self.times) != len(self.frames):
            raise ValueError(f"{len(self.frames)} frames and {len(self.times)} times: give one for each")
        if any(later <= earlier for earlier, later in pairwise(self.times)):
            raise ValueError("the times of a video's frames must rise")
        if sizes := {frame.size for frame in self.frames} - {self.frames[0].size}:
            (width, height), (other, high) = self.frames[0].size, sizes.pop()
            raise ValueError(
                f"the frames of a video have one size: the first has {width} x {height} pixels, another "
                f"{other} x {high}"
            )

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of a frame in pixels."""
        return self.frames[0].size

    @property
    def step(self) -> float:
        """Seconds from one frame to the next, on average; 1 for a single frame."""
        if len(self.times) == 1:
            return 1.0
        return (self.times[-1] - self.times[0]) / (len(self.times) - 1)


Visual = Image | Video  # the image or video of a question


@dataclass(frozen=True)
class Sampling:
    """The rule that selects frames of a video.

    `count` frames, evenly from the first to the last: numpy's `linspace` over their numbers, truncated to
    integers, as in most evaluation code. A video with fewer frames gives all of them. With `rate`, the number
    of frames is the length in seconds times `rate`, at most `count`. Frames that are not shown `between` two
    seconds, both included, are ignored. ValueError for values that allow no frame.
    """

    count: int | None = None  # None = FRAMES, or without limit if there is a rate
    rate: float | None = None  # frames per second
    between: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if self.count is not None and (not isinstance(self.count, int) or self.count < 1):
            raise ValueError(f"count={self.count}: take at least one frame, a whole number")
        if self.rate is not None and not (isfinite(self.rate) and self.rate > 0):
            raise ValueError(f"rate={self.rate}: give frames per second, more than 0")
        if self.between is not None and not 0 <= self.between[0] <= self.between[1]:
            raise ValueError(f"between={self.between}: give two seconds from 0 on, the earlier one first")

    def of(self, times: Sequence[float]) -> list[int]:
        """The numbers of the selected frames among those shown at `times`; ValueError if there are none."""
        first, last = 0, len(times) - 1
        if self.between:
            inside = [at for at, time in enumerate(times) if self.between[0] <= time <= self.between[1]]
            if not inside:
                start, end = self.between
                raise ValueError(
                    f"no frame is shown from {start:g} to {end:g} s; the last is at {times[-1]:.3g} s"
                )
            first, last = inside[0], inside[-1]
        there = last - first + 1
        most = there if self.rate else FRAMES
        number = min(there, most if self.count is None else self.count)
        if self.rate and there > 1:
            seconds = (times[last] - times[first]) * there / (there - 1)  # the last one lasts as long
            number = max(1, min(number, int(seconds * self.rate + 1e-6)))
        return (first + np.linspace(0, there - 1, number, dtype=int)).tolist()


def read_video(
    source: str | Path | NDArray[np.uint8], *, count: int | None = None, rate: float | None = None,
    between: tuple[float, float] | None = None, fps: float = 1.0,
) -> Video:  # fmt: skip
    """Frames of a video: RGB, upright, each with its time in seconds from the video's first frame.

    `source` is a video file (PyAV), an animated GIF, WebP or PNG, a folder of pictures in natural order
    (2.png before 10.png), or an array [F, H, W, 3]. Folders and arrays show `fps` frames per second.
    `Sampling` defines the selected frames. Default: 32. Other frames of a file are not kept, and other files
    of a folder are not opened.

    ValueError for a source that is no video or is broken or truncated, for frames that share one time, and
    for more than 4 GiB of frames.
    """
    sampling = Sampling(count, rate, between)
    if not (isfinite(fps) and fps > 0):
        raise ValueError(f"fps={fps}: give frames per second, more than 0")
    if isinstance(source, np.ndarray):
        return _taken(ArrayReel(source, fps), sampling)
    path = Path(source)
    if not path.exists():
        raise ValueError(f"there is no video at {path}: give a file, or a folder of pictures")
    if path.is_dir():
        return _taken(FolderReel(path, fps), sampling)
    try:
        with opened(regular_file(path)) as reel:
            return _taken(reel, sampling)
    except (OSError, SyntaxError, ValueError, EOFError) as problem:
        raise ValueError(f"{path} cannot be read as a video ({cut(problem, 200)})") from problem


def _taken(reel: Reel, sampling: Sampling) -> Video:
    (width, height), places = reel.size, sampling.of(reel.times)
    if (needed := len(places) * width * height * 3) > LARGEST:
        raise ValueError(
            f"{len(places):,} frames of {width} x {height} pixels take {needed / 2**30:.1f} GiB, and at most "
            f"{LARGEST >> 30} are read: take fewer of them (count, rate)"
        )
    return Video(tuple(reel.take(places)), tuple(reel.times[place] for place in places))
