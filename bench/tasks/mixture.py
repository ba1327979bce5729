"""The training mixture: what labels are searched on, as the paper takes part of LLaVA's instruction mixture.

Questions about scenes of the training split, from the families that the benchmarks ask: one about each scene
of the micro world, four about each scene of the busy world, where labels for one image differ with the
question alone. A sample is named by its scene (mixture-train-17), or by its scene and its turn
(busy-mixture-train-17.2), so a label store alone says which samples it needs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from bench.tasks.micro import sample
from compress.micro.world import SPOILS
from compress.micro.worlds import MICRO, WORLDS, World
from compress.samples import Sample

NAME = "mixture"
FIRST = 8_000_000  # scenes that neither the model's own training nor a benchmark uses
KEY = re.compile(rf"{NAME}/(?:(?P<world>\w+)-)?{NAME}-train-(?P<scene>\d+)(?:\.(?P<turn>\d))?")


def training_sample(number: int, world: World = MICRO) -> Sample:
    """The `number`-th sample of the mixture, the same for ever."""
    place, turn = divmod(number, world.questions)
    seed = FIRST + place
    spoil = SPOILS[place // 10 % 3] if (place + place // 10) % 10 == 9 else None
    scene = world.scene("train", seed, spoil)
    rng = world.rng_of("train", seed, 2 + turn)
    family = world.trained[number % len(world.trained)]
    chinese = family in ("choose", "texture") and bool(rng.random() < 0.5)
    question = world.ask[family](scene, rng, chinese) or world.ask["missing"](scene, rng)
    assert question is not None
    return sample(world, NAME, f"{place}.{turn}" if world.questions > 1 else place, scene, question)


def training_samples(count: int, start: int = 0, world: World = MICRO) -> list[Sample]:
    """`count` samples from number `start` on."""
    if count < 1 or start < 0:
        raise ValueError(f"count={count}, start={start}: ask for at least one sample from number 0 on")
    return [training_sample(number, world) for number in range(start, start + count)]


def labelled_samples(keys: Iterable[str]) -> list[Sample]:
    """The samples that the keys of a label store name; ValueError for a key of another data set."""
    return [_named(key) for key in keys]


def _named(key: str) -> Sample:
    found = KEY.fullmatch(key)
    world = WORLDS.get(found["world"] or MICRO.name) if found else None
    if not found or not world or (found["turn"] is None) != (world.questions == 1):
        raise ValueError(
            f"label of '{key}': this sample is not of the micro mixture, so its image is not known here"
        )
    number = int(found["scene"]) * world.questions + int(found["turn"] or 0)
    return training_sample(number, world)
