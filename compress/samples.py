"""What travels between data, labelling and evaluation: one image with one question."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from PIL.Image import Image


@dataclass(frozen=True)
class Sample:
    """One question about one image.

    `id` is unique inside its task and split, and seeds everything random about the sample. `answers` holds
    one gold response, or ten annotators' for soft accuracy; the first is the response that labelling scores.
    `family` is the kind of question inside a task (for gates and sub-scores); `info` is free for the task's
    metric.
    """

    id: str
    image: Image
    question: str
    answers: tuple[str, ...]
    task: str = ""
    family: str = ""
    info: Mapping[str, Any] = field(default_factory=dict)
