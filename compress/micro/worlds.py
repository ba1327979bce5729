"""The synthetic worlds behind a common interface for benchmarks and data sets.

`MICRO`: 3 to 6 things on one texture. `BUSY`: up to 40 things and signs on several grounds, so that the
question decides which visual tokens matter. `VIDEO`: clips of 16 frames with things that appear, move and
disappear.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compress.micro import (
    busy_language,
    busy_questions,
    language,
    questions,
    video_questions,
    video_world,
    world,
)
from compress.micro import busy_world as busy
from compress.micro.questions import Question
from compress.samples import Scenery

Ask = Callable[..., Question | None]  # (scene, generator, chinese=False); `exist` also takes negative=


@dataclass(frozen=True)
class World:
    """Scenes, photographs or films of them, and questions about them.

    `scene(split, seed, spoil=None)` draws a scene, and `rng_of(split, seed, purpose)` returns its random
    generator. `owners(scene)` returns the number of the thing in each patch (-1: none), [grid * grid] for an
    image, and for a film the same for each moment. `ask` has one function per family of questions. `asked`
    lists the families that each benchmark asks in turn, `trained` those of the training mixture. The families
    in `whole` need the whole image. The mixture has `questions` questions about each scene. `pools` are the
    possible wrong answers of an annotator, by family.
    """

    name: str
    side: int  # pixels
    grid: int  # patches along a side
    scene: Callable[..., Any]
    photograph: Callable[[Any], Scenery]
    rng_of: Callable[..., np.random.Generator]
    owners: Callable[[Any], NDArray[np.int16]]
    ask: Mapping[str, Ask]
    asked: Mapping[str, tuple[str, ...]]
    trained: tuple[str, ...]
    questions: int
    whole: tuple[str, ...]
    pools: Mapping[str, tuple[str, ...]]


@lru_cache(maxsize=2048)  # a report needs the same scenes for every row
def _owners_of_micro(scene: world.Scene) -> NDArray[np.int16]:
    return world.patch_labels(scene)[1].ravel().astype(np.int16)


@lru_cache(maxsize=2048)
def _owners_of_busy(scene: busy.BusyScene) -> NDArray[np.int16]:
    return busy.paint(scene)[1].owner


MICRO = World(
    "micro", world.SIDE, world.GRID, world.scene, world.Photograph, world.rng_of, _owners_of_micro,
    ask=questions.FAMILIES,
    asked={
        "gqa": ("color", "shape", "relation"),
        "mmbench": ("choose",),
        "vqav2": ("count", "color", "count", "exist", "shape"),
        "vizwiz": ("color", "shape", "missing", "exist"),
        "textvqa": ("read",),
        "scenes": ("exist", "color", "count", "relation", "shape"),
    },
    trained=(
        "exist", "color", "shape", "relation", "count", "choose", "exist", "read", "texture", "choose",
        "count", "choose",
    ),
    questions=1,
    whole=("texture", "caption"),
    pools={
        "count": language.COUNTS, "color": tuple(world.COLORS), "shape": questions.KINDS,
        "exist": ("yes", "no"),
    },
)  # fmt: skip
BUSY = World(
    "busy", busy.SIDE, busy.GRID, busy.scene, busy.BusyPhotograph, busy.rng_of, _owners_of_busy,
    ask=busy_questions.FAMILIES,
    asked={
        "gqa": ("color", "shape", "relation", "ground"),
        "mmbench": ("choose",),
        "vqav2": ("color", "count", "read", "total", "shape", "exist"),
        "vizwiz": ("color", "shape", "missing", "exist", "read"),
        "textvqa": ("read",),
        "scenes": ("exist", "color", "read", "relation", "shape"),
    },
    trained=(
        "exist", "color", "shape", "relation", "read", "choose", "count", "exist", "color", "read", "ground",
        "choose",
    ),
    questions=4,
    whole=busy_questions.WHOLE,
    pools={
        "count": busy_language.COUNTS, "total": busy_language.COUNTS, "color": tuple(world.COLORS),
        "shape": busy.KINDS, "exist": ("yes", "no"),
    },
)  # fmt: skip


def _clip(split: str, seed: int, spoil: str | None = None) -> video_world.VideoScene:
    return video_world.clip(split, seed)


def _owners_of_clip(scene: video_world.VideoScene) -> NDArray[np.int16]:
    return video_world.owners(scene).ravel()


def _in_english(
    ask: Callable[[Any, np.random.Generator], Question | None], scene: Any, rng: np.random.Generator,
    chinese: bool = False,
) -> Question | None:  # fmt: skip
    return ask(scene, rng)


VIDEO = World(
    "video", video_world.SIDE, video_world.CELLS, _clip, video_world.Footage, video_world.rng_of,
    _owners_of_clip,
    ask={name: partial(_in_english, ask) for name, ask in video_questions.FAMILIES.items()},
    asked={
        "clips": ("motion", "order", "needle", "change", "count", "entry", "color", "exist"),
        "mvbench": ("choose",),
        "video-mme": ("choose",),
    },
    trained=(
        "motion", "order", "needle", "change", "count", "entry", "choose", "color", "exist", "shape",
        "motion", "choose",
    ),
    questions=1,
    whole=(),
    pools={},
)  # fmt: skip
WORLDS = {one.name: one for one in (MICRO, BUSY, VIDEO)}


def scene_of(picture: object) -> tuple[World, Any] | None:
    """Return the world and the scene of a photograph or film; None for other pictures."""
    if isinstance(picture, world.Photograph):
        return MICRO, picture.scene
    if isinstance(picture, busy.BusyPhotograph):
        return BUSY, picture.scene
    if isinstance(picture, video_world.Footage):
        return VIDEO, picture.scene
    return None


def world_of(model: str) -> World:
    """Return the world that a model was trained on, by its name or folder name. Default: `MICRO`."""
    name = Path(model).name
    if name.startswith("micro-video"):
        return VIDEO
    return BUSY if name.partition("-")[0] == BUSY.name else MICRO
