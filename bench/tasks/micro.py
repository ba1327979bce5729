"""From questions about scenes to samples: the part that the miniature benchmarks share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from zlib import crc32

import numpy as np

from compress.micro.questions import Question
from compress.micro.world import Photograph, Scene, rng_of, scene
from compress.samples import Sample

# Every benchmark asks about scenes of its own: seeds start at a different million. A name that is not listed
# gets a million of its own.
MILLION = {"gqa": 1, "pope": 2, "mmbench": 3, "vqav2": 4, "vizwiz": 5, "textvqa": 6, "scenes": 7}

Asker = Callable[[Scene, np.random.Generator], Question | None]


def sample(
    task: str, number: int, picture: Scene, question: Question, answers: tuple[str, ...] = (), **info: object
) -> Sample:
    """One question as a sample; `about` and `options` of the question travel in `info`."""
    return Sample(
        id=f"{task}-{picture.split}-{number}", picture=Photograph(picture), question=question.text,
        answers=answers or (question.answer,), task=task, family=question.family,
        info={"seed": picture.seed, "about": question.about, "options": question.options, **info},
    )  # fmt: skip


def scenes(
    task: str, split: str, spoil: Callable[[int], str | None] = lambda i: None
) -> Iterator[tuple[int, Scene]]:
    """Numbered scenes of a benchmark, without end."""
    million = MILLION.get(task) or 1000 + crc32(task.encode())
    number = 0
    while True:
        yield number, scene(split, million * 1_000_000 + number, spoil(number))
        number += 1


def asked(
    task: str,
    split: str,
    n: int,
    askers: Sequence[Asker],
    spoil: Callable[[int], str | None] = lambda i: None,
) -> list[tuple[Scene, Question]]:
    """`n` questions, one per scene, the askers in turn; a scene that offers nothing to ask is passed over."""
    made: list[tuple[Scene, Question]] = []
    for _, picture in scenes(task, split, spoil):
        if len(made) == n:
            break
        question = askers[len(made) % len(askers)](picture, rng_of(split, picture.seed, 2))
        if question is not None:
            made.append((picture, question))
    return made


def annotators(
    answer: str, others: tuple[str, ...], rng: np.random.Generator, agree: float
) -> tuple[str, ...]:
    """Ten human answers: each agrees with the truth with probability `agree`, the first always does."""
    wrong = [other for other in others if other != answer]
    return tuple(answer if i == 0 or rng.random() < agree else str(rng.choice(wrong)) for i in range(10))
