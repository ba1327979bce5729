"""What travels between data, labelling and evaluation: one image with one question."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from PIL.Image import Image


class Picture(Protocol):
    """An image that is opened when it is looked at, and not kept."""

    @property
    def key(self) -> str:
        """Tells it from other pictures without opening it, the same on every machine."""

    def __call__(self) -> Image:
        """The image in RGB; ValueError that says what is wrong with it."""


@dataclass(frozen=True)
class Sample:
    """One question about one image.

    `id` is unique inside its task and split, and seeds everything random about the sample. `answers` holds
    one gold response, or ten annotators' for soft accuracy, or none where they are not public; the first is
    the response that labelling scores. `family` is the kind of question inside a task (for gates and
    sub-scores); `info` is free for the task's metric.
    """

    id: str
    picture: Image | Picture
    question: str
    answers: tuple[str, ...]
    task: str = ""
    family: str = ""
    info: Mapping[str, Any] = field(default_factory=dict)

    @property
    def image(self) -> Image:
        """The image in RGB, opened now if it lies in a file."""
        return self.picture if isinstance(self.picture, Image) else self.picture()

    @property
    def fingerprint(self) -> str:
        """Digest of what is asked and about what; an image in a file is not opened for it."""
        told = repr((self.id, self.question, self.answers)).encode()
        if isinstance(self.picture, Image):
            seen = repr(self.picture.size).encode() + self.picture.tobytes()
        else:
            seen = self.picture.key.encode()
        return hashlib.sha256(told + seen).hexdigest()
