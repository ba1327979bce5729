"""What travels between data, labelling and evaluation: one image or video with one question."""

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
    """An image or a video that is opened when it is looked at, and not kept."""

    @property
    def key(self) -> str:
        """Tells it from others without opening it, the same on every machine."""

    def __call__(self) -> Visual:
        """The image or the frames in RGB; ValueError that says what is wrong."""


class ImageSource(VisualSource, Protocol):
    """A source of an image."""

    def __call__(self) -> Image:
        """The image in RGB; ValueError that says what is wrong with it."""


@runtime_checkable
class Scenery(VisualSource, Protocol):
    """What is yet to be photographed or filmed, in the size that is asked for."""

    def at(self, side: int) -> Visual:
        """The photograph or film for a model that sees `side` pixels a side."""


@dataclass(frozen=True)
class Sample:
    """One question about one image or video.

    `id` is unique inside its task and split, and seeds everything random about the sample. `answers` holds
    one gold response, or ten annotators' for soft accuracy, or none where they are not public; the first is
    the response that labelling scores. `family` is the kind of question inside a task (for gates and
    sub-scores); `info` is free for the task's metric.
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
        """The image or the frames in RGB, opened now if they lie in a file."""
        if isinstance(self.picture, Image):
            return rgb(self.picture)
        return self.picture if isinstance(self.picture, Video) else self.picture()

    @property
    def image(self) -> Image:
        """The image in RGB; ValueError for a video, where only an image is of use."""
        return only_image(self.visual, self.id)

    def visual_at(self, side: int) -> Visual:
        """The image or video for a model that sees `side` pixels a side; what is there has its own size."""
        return self.picture.at(side) if isinstance(self.picture, Scenery) else self.visual

    def image_at(self, side: int) -> Image:
        """As `visual_at`; ValueError for a video."""
        return only_image(self.visual_at(side), self.id)

    @property
    def picture_digest(self) -> str:
        """Tells the picture from others; one that lies in a file is not opened for it."""
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
    """Samples that are made when they are asked for, so that a long list of them needs no memory.

    `key` names a sample without making it: its id, unique inside its task, after the task's name.
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
