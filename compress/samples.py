"""What travels between data, labelling and evaluation: one image with one question."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, overload, runtime_checkable

from PIL.Image import Image

from compress.images import rgb


class ImageSource(Protocol):
    """An image that is opened when it is looked at, and not kept."""

    @property
    def key(self) -> str:
        """Tells it from other pictures without opening it, the same on every machine."""

    def __call__(self) -> Image:
        """The image in RGB; ValueError that says what is wrong with it."""


@runtime_checkable
class Scenery(ImageSource, Protocol):
    """What is yet to be photographed, in the size that is asked for."""

    def at(self, side: int) -> Image:
        """The photograph for a model that sees `side` pixels a side."""


@dataclass(frozen=True)
class Sample:
    """One question about one image.

    `id` is unique inside its task and split, and seeds everything random about the sample. `answers` holds
    one gold response, or ten annotators' for soft accuracy, or none where they are not public; the first is
    the response that labelling scores. `family` is the kind of question inside a task (for gates and
    sub-scores); `info` is free for the task's metric.
    """

    id: str
    picture: Image | ImageSource
    question: str
    answers: tuple[str, ...]
    task: str = ""
    family: str = ""
    info: Mapping[str, Any] = field(default_factory=dict)

    @property
    def image(self) -> Image:
        """The image in RGB, opened now if it lies in a file."""
        return rgb(self.picture) if isinstance(self.picture, Image) else self.picture()

    def image_at(self, side: int) -> Image:
        """The image in RGB for a model that sees `side` pixels a side; one that is there has its own size."""
        return self.picture.at(side) if isinstance(self.picture, Scenery) else self.image

    @property
    def picture_digest(self) -> str:
        """Tells the picture from others; one that lies in a file is not opened for it."""
        if isinstance(self.picture, Image):
            return hashlib.sha256(repr(self.picture.size).encode() + self.picture.tobytes()).hexdigest()
        return hashlib.sha256(self.picture.key.encode()).hexdigest()

    @property
    def fingerprint(self) -> str:
        """Digest of id, question, answers and picture."""
        told = repr((self.id, self.question, self.answers, self.picture_digest))
        return hashlib.sha256(told.encode()).hexdigest()


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
