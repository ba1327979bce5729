"""The training mixture for the search of labels, as the paper uses part of LLaVA's instruction mixture.

It has one or four questions about each scene of the training split, from the families of the benchmarks. With
four, labels for one image differ by the question alone. A sample is named by its scene (mixture-train-17), or
by its scene and its turn (busy-mixture-train-17.2), so a label store alone identifies the samples it needs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from bench.tasks.micro import sample
from compress.micro.world import SPOILS
from compress.micro.worlds import MICRO, WORLDS, World
from compress.samples import Sample

NAME = "mixture"
SEVERAL = 4  # questions about a scene if samples are named by turn
FIRST = 8_000_000  # first of the scenes that neither the model's training nor a benchmark uses
KEY = re.compile(rf"{NAME}/(?:(?P<world>\w+)-)?{NAME}-train-(?P<scene>\d+)(?:\.(?P<turn>[0-3]))?")


def training_sample(number: int, world: World = MICRO, questions: int | None = None) -> Sample:
    """The `number`-th sample of the mixture with `questions` about each scene (1 or 4); it never changes.

    Default: `world.questions`.
    """
    questions = questions or world.questions
    if questions not in (1, SEVERAL):
        raise ValueError(f"questions={questions}: the mixture has 1 or {SEVERAL} questions about each scene")
    place, turn = divmod(number, questions)
    seed = FIRST + place
    spoil = SPOILS[place // 10 % 3] if (place + place // 10) % 10 == 9 else None
    scene = world.scene("train", seed, spoil)
    rng = world.rng_of("train", seed, 2 + turn)
    chosen = world.trained[number % len(world.trained)]
    chinese = chosen in ("choose", "texture") and bool(rng.random() < 0.5)
    others = ["missing"] * ("missing" in world.ask)
    for family in (chosen, *others, *world.trained):  # not every scene has a question of each family
        if question := world.ask[family](scene, rng, chinese and family == chosen):
            return sample(world, NAME, f"{place}.{turn}" if questions > 1 else place, scene, question)
    raise ValueError(f"the {world.name} world has no question about the training scene {seed}")


def training_samples(
    count: int, start: int = 0, world: World = MICRO, questions: int | None = None
) -> list[Sample]:
    """`count` samples, starting at number `start`."""
    if count < 1 or start < 0:
        raise ValueError(f"count={count}, start={start}: ask for at least one sample from number 0 on")
    return [training_sample(number, world, questions) for number in range(start, start + count)]


def labelled_samples(keys: Iterable[str]) -> list[Sample]:
    """The samples named by the keys of a label store; ValueError for a key of another data set."""
    return [_named(key) for key in keys]


def _named(key: str) -> Sample:
    found = KEY.fullmatch(key)
    world = WORLDS.get(found["world"] or MICRO.name) if found else None
    if not found or not world:
        raise ValueError(
            f"label of '{key}': this sample is not of the micro mixture, so its image is not known here"
        )
    questions = 1 if found["turn"] is None else SEVERAL
    return training_sample(int(found["scene"]) * questions + int(found["turn"] or 0), world, questions)
