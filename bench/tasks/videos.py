"""Videos of a data set, opened on access, and code shared by benchmarks about videos."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from bench.tasks.base import Sums
from bench.tasks.folder import Folder, Hub
from bench.tasks.images import bytes_in, check_inside
from bench.tasks.multiple import MultipleChoice
from compress.micro.worlds import VIDEO, World
from compress.samples import Sample
from compress.video import FRAMES, Sampling, Video, read_video


@dataclass(frozen=True)
class VideoFile:
    """A file below the folder `root`, or a folder of its frames, sampled at `fps` frames per second."""

    root: Path
    name: str  # with forward slashes
    sampling: Sampling
    fps: float = 1.0

    def __post_init__(self) -> None:
        check_inside(self.root, self.name)

    @property
    def path(self) -> Path:
        return self.root / self.name

    @property
    def size(self) -> int | None:
        """Bytes of the file, or number of the folder's files; None if it does not exist."""
        try:
            return sum(1 for _ in self.path.iterdir())
        except (OSError, ValueError):  # not a folder
            return bytes_in(self.path)

    @property
    def key(self) -> str:
        size, how = self.size, self.sampling
        return f"{self.name} {-1 if size is None else size} {how.count} {how.rate} {how.between} {self.fps}"

    def __call__(self) -> Video:
        how = self.sampling
        return read_video(self.path, count=how.count, rate=how.rate, between=how.between, fps=self.fps)


@dataclass(frozen=True)
class VideoChoice(MultipleChoice):
    """Multiple choice by letter about a video, which is shown as `frames` frames."""

    frames: int = FRAMES

    videos: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        Sampling(self.frames)

    def micro(self, n: int, split: str = "test", world: World = VIDEO) -> list[Sample]:
        return super().micro(n, split, world)

    def counts(self, sample: Sample, prediction: str) -> bool:
        """Return whether an answer enters the mean."""
        return True

    def statistics(self, samples: Sequence[Sample], predictions: Sequence[str]) -> Sums:
        """[U, 2] (credit, 1) for answers that count, zeros for others."""
        counted = [self.counts(*pair) for pair in zip(samples, predictions, strict=True)]
        return super().statistics(samples, predictions) * np.array(counted, float)[:, None]


def local(folder: Folder) -> Path:
    """The path of the files; ValueError for the hub, whose tables have no videos."""
    if isinstance(folder, Hub):
        raise ValueError(f"{folder.path}: its videos are not in its tables: give --data a folder with them")
    return folder.path


def present(root: Path, *names: str) -> str:
    """The first of these names that exists below a folder, else the first name."""
    return next((name for name in names if (root / name).exists()), names[0])
