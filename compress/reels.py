"""Readers of video frames: from a file, an animated picture, a folder of pictures, or an array."""

from __future__ import annotations

import warnings
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from itertools import chain
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pictures
from PIL.Image import Image

from compress.images import SUFFIXES, check_shape, open_rgb, pictures_of, rgb

PIXELS = 89_478_485  # maximum of a frame, equal to PIL's limit
MOVING = ("GIF", "WEBP", "PNG")  # formats of pictures that may be animated
STILL = 0.1  # seconds for a frame of a GIF without a duration, as in browsers
MICROSECONDS = 1_000_000
CUT = 0.9  # share of the stated length; a file that ends earlier is truncated


class Reel(Protocol):
    """All frames of a video; they are read only when `take` yields them."""

    @property
    def times(self) -> Sequence[float]:
        """Seconds [F] of each frame from the first one."""

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""

    def take(self, places: Sequence[int]) -> Iterator[Image]:
        """Yield the frames with these numbers, in ascending order."""


@dataclass(frozen=True)
class ArrayReel:
    array: NDArray[np.uint8]
    fps: float

    def __post_init__(self) -> None:
        shape = self.array.shape
        if len(shape) != 4 or shape[3] != 3 or not all(shape) or self.array.dtype != np.uint8:
            raise ValueError(
                f"an array of shape {list(shape)} and type {self.array.dtype}: a video is [F, H, W, 3], uint8"
            )
        check_shape(self.size)

    @property
    def times(self) -> list[float]:
        return [number / self.fps for number in range(len(self.array))]

    @property
    def size(self) -> tuple[int, int]:
        return self.array.shape[2], self.array.shape[1]

    def take(self, places: Sequence[int]) -> Iterator[Image]:
        return (Pictures.fromarray(self.array[place]) for place in places)


class FolderReel:
    def __init__(self, path: Path, fps: float):
        if not (paths := pictures_of(path)):
            raise ValueError(f"{path} has no pictures ({', '.join(SUFFIXES)}): a video needs at least one")
        self.paths = paths
        self.times = [number / fps for number in range(len(self.paths))]
        self.size = open_rgb(self.paths[0], str(self.paths[0])).size
        self.path = path

    def take(self, places: Sequence[int]) -> Iterator[Image]:
        for place in places:
            image = open_rgb(self.paths[place], str(self.paths[place]))
            if image.size != self.size:
                (width, height), (first, high) = image.size, self.size
                raise ValueError(
                    f"{self.paths[place]} has {width} x {height} pixels, and the first frame {first} x "
                    f"{high}: give frames of one size"
                )
            yield image


@contextmanager
def opened(path: Path) -> Iterator[Reel]:
    with path.open("rb") as file:
        if not file.read(1):
            raise ValueError("it is empty")
        file.seek(0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                picture = Pictures.open(file, formats=MOVING)
            except Pictures.DecompressionBombError as problem:
                raise ValueError(str(problem)) from problem
            except (OSError, SyntaxError):
                picture = None
            if picture:
                yield _MovingReel(picture)
                return
        file.seek(0)
        with _film(file) as film:
            yield film


class _MovingReel:
    """An animated picture. Each frame encodes changes to earlier ones, so all are decoded one by one."""

    def __init__(self, picture: Any):
        self.picture, self.size = picture, _readable(picture.size)
        self.times = [0.0]
        for number in range(getattr(picture, "n_frames", 1)):
            picture.seek(number)
            picture.load()  # the duration of a WebP frame is known only after decoding
            shown = picture.info.get("duration") or 0
            self.times.append(self.times[-1] + (shown / 1000 if shown > 10 else STILL))
        self.times.pop()

    def take(self, places: Sequence[int]) -> Iterator[Image]:
        for place in places:
            self.picture.seek(place)
            yield rgb(self.picture.copy())


@contextmanager
def _film(file: IO[bytes]) -> Iterator[_FileReel]:
    try:
        av = import_module("av")
    except ModuleNotFoundError as problem:
        raise ValueError(
            "video files need PyAV: pip install 'evocomp[video]', or give a folder of pictures"
        ) from problem
    try:
        with av.open(file) as container:
            yield _FileReel(container)
    except av.FFmpegError as problem:
        raise ValueError("it is none, or broken") from problem


class _FileReel:
    """A video file. Its packets are read twice: once for their times, and once for the requested frames.

    Decoding starts at the last key frame before a requested one, which skips most of a long video.
    """

    def __init__(self, container: Any):
        self.container, self.stream = container, container.streams.best("video")
        if self.stream is None:
            raise ValueError("it has no video stream")
        if container.format.name == "tty":  # FFmpeg draws text files
            raise ValueError("it is a text")
        _readable((self.stream.width, self.stream.height))
        self.stream.thread_type = "AUTO"
        stamps, keys, end, packets = set[int](), set[int](), 0.0, 0
        for packet in container.demux():
            stamp = _stamp(packet)
            if packet.size == 0 or stamp is None:
                continue
            end = max(end, float((stamp + (packet.duration or 0)) * packet.time_base))
            if packet.stream.index == self.stream.index and not packet.is_discard:
                packets += 1
                stamps.add(stamp)
                keys |= {stamp} if packet.is_keyframe else set()
        end -= (container.start_time or 0) / MICROSECONDS
        whole = (container.duration or 0) / MICROSECONDS
        if not stamps:
            raise ValueError("it has no frames with times")
        if len(stamps) == 1 < packets:
            raise ValueError(f"it has no length: its {packets} frames are shown at one time")
        if end < CUT * whole:
            raise ValueError(f"it is cut: it should be {whole:.1f} s long and ends at {end:.1f} s")
        self.stamps, self.keys = sorted(stamps), sorted(keys)
        base = self.stream.time_base
        self.times = [float((stamp - self.stamps[0]) * base) for stamp in self.stamps]
        first = next(self._frames(self.stamps[0]), None)
        if first is None:
            raise ValueError("none of its frames can be decoded")
        self.size = _picture(first).size

    def take(self, places: Sequence[int]) -> Iterator[Image]:
        frames: Iterator[Any] = iter(())
        last = -1
        for place in places:
            wanted = self.stamps[place]
            if last < self._key(wanted):
                frames = self._frames(wanted)
            frame = next((one for one in frames if _stamp(one) >= wanted), None)
            if frame is None:
                raise ValueError(f"its frame at {self.times[place]:.2f} s cannot be decoded")
            last = _stamp(frame)
            yield _picture(frame, self.size)

    def _key(self, wanted: int) -> int:
        """The time stamp of the key frame at which decoding of a frame starts."""
        before = bisect_right(self.keys, wanted)
        return self.keys[before - 1] if before else self.stamps[0]

    def _frames(self, wanted: int) -> Iterator[Any]:
        """Frames from the key frame before `wanted` on, or all frames if seeking goes past it."""
        self.container.seek(self._key(wanted), stream=self.stream)
        frames = self.container.decode(self.stream)
        first = next(frames, None)
        if first is None or _stamp(first) > wanted:
            self.container.seek(min(0, self.container.start_time or 0))
            return iter(self.container.decode(self.stream))
        return chain([first], frames)


def _readable(size: tuple[int, int]) -> tuple[int, int]:
    """The size, if frames of this size can be read; ValueError otherwise, before the first one is decoded."""
    check_shape(size)
    width, height = size
    if width * height > PIXELS:
        raise ValueError(f"a frame has {width} x {height} pixels; at most {PIXELS:,} are read")
    return size


def _stamp(one: Any) -> Any:
    """Presentation time of a packet or frame in its stream's unit; AVI files give the decoding time only."""
    return one.dts if one.pts is None else one.pts


def _picture(frame: Any, size: tuple[int, int] | None = None) -> Image:
    """The frame upright, resized to `size` if the file changes its size midway."""
    image: Image = frame.to_image()
    if frame.rotation % 90 == 0:
        image = image.rotate(frame.rotation, expand=True)
    return image.resize(size) if size and image.size != size else image
