"""From questions about scenes to samples: functions shared by the miniature benchmarks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any
from zlib import crc32

import numpy as np

from compress.micro.questions import Question
from compress.micro.worlds import MICRO, World
from compress.samples import Sample

# Every benchmark has scenes of its own: seeds start at a different million. A name that is not listed
# gets a million of its own.
MILLION = {"gqa": 1, "pope": 2, "mmbench": 3, "vqav2": 4, "vizwiz": 5, "textvqa": 6, "scenes": 7}


def sample(
    world: World, task: str, number: object, scene: Any, question: Question, answers: tuple[str, ...] = (),
    **info: object,
) -> Sample:  # fmt: skip
    """One question as a sample; `info` includes the question's `about` and `options`."""
    name = task if world is MICRO else f"{world.name}-{task}"
    return Sample(
        id=f"{name}-{scene.split}-{number}", picture=world.photograph(scene), question=question.text,
        answers=answers or (question.answer,), task=task, family=question.family,
        info={"seed": scene.seed, "about": question.about, "options": question.options, **info},
    )  # fmt: skip


def scenes(
    world: World, task: str, split: str, spoil: Callable[[int], str | None] = lambda i: None
) -> Iterator[tuple[int, Any]]:
    """Yield numbered scenes of a benchmark, without end."""
    million = MILLION.get(task) or 1000 + crc32(task.encode())
    number = 0
    while True:
        yield number, world.scene(split, million * 1_000_000 + number, spoil(number))
        number += 1


def asked(
    world: World, task: str, split: str, n: int, chinese: bool = False,
    spoil: Callable[[int], str | None] = lambda i: None, families: Sequence[str] = (),
) -> list[tuple[Any, Question]]:  # fmt: skip
    """`n` questions, one per scene, of `families` in turn. Default: the world's families for the task.

    Scenes without a question of the family are skipped.
    """
    made: list[tuple[Any, Question]] = []
    families = families or world.asked[task]
    for _, scene in scenes(world, task, split, spoil):
        if len(made) == n:
            break
        ask = world.ask[families[len(made) % len(families)]]
        question = ask(scene, world.rng_of(split, scene.seed, 2), chinese)
        if question is not None:
            made.append((scene, question))
    return made


def annotators(
    answer: str, others: tuple[str, ...], rng: np.random.Generator, agree: float
) -> tuple[str, ...]:
    """Ten human answers: each is correct with probability `agree`, the first always."""
    wrong = [other for other in others if other != answer]
    return tuple(answer if i == 0 or rng.random() < agree else str(rng.choice(wrong)) for i in range(10))
