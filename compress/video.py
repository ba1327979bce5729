"""A video as models get it: frames that were sampled from it, and when each was shown."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from PIL.Image import Image


@dataclass(frozen=True)
class Video:
    """Frames of one size, in order, and the second at which each is shown.

    ValueError without frames, for frames of different sizes, and for times that do not rise.
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


Visual = Image | Video  # what a question is about
