"""Samples for data, labelling and evaluation: one image or video with one question."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, overload, runtime_checkable

from PIL.Image import Image

from compress.images import rgb
from compress.video import Video, Visual


class VisualSource(Protocol):
    """An image or a video that is opened on every access and not cached."""

    @property
    def key(self) -> str:
        """Identifies the source without opening it; the same on every machine."""

    def __call__(self) -> Visual:
        """The image or the frames in RGB; ValueError with the reason if they cannot be read."""


class ImageSource(VisualSource, Protocol):
    """A source of an image."""

    def __call__(self) -> Image:
        """The image in RGB; ValueError with the reason if it cannot be read."""


@runtime_checkable
class Scenery(VisualSource, Protocol):
    """A source that renders an image or a video at the requested size."""

    def at(self, side: int) -> Visual:
        """The image or video for a model with an input size of `side` pixels."""


@dataclass(frozen=True)
class Sample:
    """One question about one image or video.

    `id` is unique within its task and split, and is the seed of everything random about the sample. `answers`
    holds one gold response, or ten annotators' responses for soft accuracy, or none if they are not public;
    labelling scores the first. `family` is the type of question within a task (for gates and sub-scores);
    `info` holds any further data for the task's metric.
    """

    id: str
    picture: Visual | VisualSource
    question: str
    answers: tuple[str, ...]
    task: str = ""
    family: str = ""
    info: Mapping[str, Any] = field(default_factory=dict)

    @property
    def visual(self) -> Visual:
        """The image or the frames in RGB; a source is opened on each access."""
        if isinstance(self.picture, Image):
            return rgb(self.picture)
        return self.picture if isinstance(self.picture, Video) else self.picture()

    @property
    def image(self) -> Image:
        """The image in RGB; ValueError for a video."""
        return only_image(self.visual, self.id)

    def visual_at(self, side: int) -> Visual:
        """The image or video for a model with an input of `side` pixels; existing ones keep their size."""
        return self.picture.at(side) if isinstance(self.picture, Scenery) else self.visual

    def image_at(self, side: int) -> Image:
        """As `visual_at`; ValueError for a video."""
        return only_image(self.visual_at(side), self.id)

    @property
    def picture_digest(self) -> str:
        """Identifies the picture; a picture in a file is not opened."""
        if isinstance(self.picture, Image):
            return hashlib.sha256(repr(self.picture.size).encode() + self.picture.tobytes()).hexdigest()
        if isinstance(self.picture, Video):
            digest = hashlib.sha256(repr((self.picture.size, self.picture.times)).encode())
            for frame in self.picture.frames:
                digest.update(frame.tobytes())
            return digest.hexdigest()
        return hashlib.sha256(self.picture.key.encode()).hexdigest()

    @property
    def fingerprint(self) -> str:
        """Digest of id, question, answers and picture."""
        told = repr((self.id, self.question, self.answers, self.picture_digest))
        return hashlib.sha256(told.encode()).hexdigest()


def only_image(visual: Visual, name: str) -> Image:
    """The image; ValueError with the sample's name for a video."""
    if isinstance(visual, Video):
        raise ValueError(f"{name} is about a video, and this works with images only: leave it out")
    return visual


class Catalogue(Sequence[Sample]):
    """Samples that are created on access, so that a long list of them needs no memory.

    `key` identifies a sample without creating it: the task's name, then the id, which is unique within the
    task.
    """

    @abstractmethod
    def key(self, place: int) -> str: ...

    @abstractmethod
    def make(self, place: int) -> Sample: ...

    @overload
    def __getitem__(self, place: int) -> Sample: ...

    @overload
    def __getitem__(self, place: slice) -> list[Sample]: ...

    def __getitem__(self, place: int | slice) -> Sample | list[Sample]:
        if isinstance(place, slice):
            return [self.make(one) for one in range(*place.indices(len(self)))]
        return self.make(range(len(self))[place])
