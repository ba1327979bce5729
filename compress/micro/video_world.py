"""The world of clips: short videos of things that appear, move, change colour and disappear.

A clip has 16 frames of 96 x 96 pixels, two of each of its 8 moments. The background is constant. Three to
five shapes are present for a part of the time. Half of them cross a part of the image, one may change its
colour, several may be of one kind. Most clips show a sign for one moment: a white plate with a printed shape.
A clip is determined by `(split, seed)` alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from compress.micro import world
from compress.micro.world import (
    COLORS,
    SHAPES,
    SIDE,
    TEXTURES,
    Thing,
    background,
    placed,
    shape_mask,
)
from compress.video import Video

MOMENTS, PER_MOMENT = 8, 2
FRAMES = MOMENTS * PER_MOMENT
RATE = 2.0  # frames per second
CELL = 16  # pixels along a side of a visual token of `micro-video`
CELLS = SIDE // CELL
STEPS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
PLATE, MARGIN = 32, 5  # side of a sign and margin around the printed shape, in pixels
GAP = 2.0  # minimum distance of two things in pixels
WHITE = np.float32(245)


@dataclass(frozen=True)
class Actor:
    """A shape or a sign over time. `thing` is its state at the first moment.

    The text and the color of a sign are those of the printed shape. The actor is present from moment `first`
    to `last`, both included. It moves in direction `way` by `speed` pixels per moment. From moment `turn` on
    it has the color `then`.
    """

    thing: Thing
    first: int
    last: int
    way: str | None = None
    speed: float = 0.0
    turn: int | None = None
    then: str | None = None

    @property
    def kind(self) -> str:
        return self.thing.kind

    @property
    def colors(self) -> tuple[str, ...]:
        """One color, or two in temporal order."""
        return (self.thing.color, self.then) if self.then else (self.thing.color,)

    def at(self, moment: int) -> Thing | None:
        """Return the thing at a moment; None if it is absent."""
        if not self.first <= moment <= self.last:
            return None
        dx, dy = STEPS[self.way] if self.way else (0, 0)
        far = self.speed * (moment - self.first)
        color = self.then if self.then and self.turn is not None and moment >= self.turn else self.thing.color
        return replace(self.thing, x=self.thing.x + dx * far, y=self.thing.y + dy * far, color=color)


@dataclass(frozen=True)
class VideoScene:
    """The content of a clip."""

    split: str
    seed: int
    actors: tuple[Actor, ...]
    texture: str
    tone: int


def rng_of(split: str, seed: int, purpose: int = 0) -> np.random.Generator:
    """Return the random generator of one clip, independent of all streams of the other worlds.

    `purpose` separates events (0), pixels (1) and questions (2 and up).
    """
    return world.rng_of(split, seed, purpose, apart=(FRAMES, SIDE))


def clip(split: str, seed: int) -> VideoScene:
    """Build the scene of one seed."""
    rng = rng_of(split, seed)
    count = int(rng.integers(3, 6))
    same = int(rng.choice([1, 2, 3], p=[0.3, 0.35, 0.35]))  # things of one kind
    kinds = rng.permutation(SHAPES).tolist()
    kinds = [kinds[0]] * same + kinds[1 : 1 + count - same]
    hues = rng.permutation(list(COLORS)).tolist()  # all things start with different colors
    changes = rng.random() < 0.7 and same < count
    actors: list[Actor] = []
    for number, kind in enumerate(kinds):
        turns = changes and number == count - 1
        for _ in range(60):
            actor = _actor(rng, kind, hues[number], hues[-1] if turns else None)
            if all(_apart(actor, other) for other in actors):
                actors.append(actor)
                break
    if rng.random() < 0.8:
        printed = str(rng.choice([one for one in SHAPES if one not in kinds]))
        for _ in range(60):
            x, y = rng.uniform(PLATE / 2 + 1, SIDE - PLATE / 2 - 1, 2).tolist()
            moment = int(rng.integers(MOMENTS))
            plate = Thing("sign", hues[count], x, y, PLATE, PLATE, text=printed)
            if all(_apart(Actor(plate, moment, moment), other) for other in actors):
                actors.append(Actor(plate, moment, moment))
                break
    texture = TEXTURES[int(rng.integers(len(TEXTURES)))]
    order = rng.permutation(len(actors))
    return VideoScene(split, seed, tuple(actors[i] for i in order), texture, int(rng.integers(1 << 30)))


def backwards(scene: VideoScene) -> VideoScene:
    """Return the scene of the clip played backwards; only the noise differs."""
    other = {"left": "right", "right": "left", "up": "down", "down": "up"}
    actors = []
    for actor in scene.actors:
        end = actor.at(actor.last)
        assert end is not None
        actors.append(
            Actor(
                end, MOMENTS - 1 - actor.last, MOMENTS - 1 - actor.first,
                other[actor.way] if actor.way else None, actor.speed,
                None if actor.turn is None else MOMENTS - actor.turn,
                actor.thing.color if actor.then else None,
            )
        )  # fmt: skip
    return replace(scene, actors=tuple(actors))


def paint(scene: VideoScene) -> NDArray[np.uint8]:
    """Paint the frames, [16, 96, 96, 3]."""
    rng = rng_of(scene.split, scene.seed, 1)
    ground = background(scene.texture, (SIDE, SIDE), 1, np.random.default_rng(scene.tone)).astype(np.float32)
    tints = rng.normal(0, 9, (len(scene.actors), 3))
    shades = np.linspace(rng.uniform(0.85, 1.0), rng.uniform(1.0, 1.1), SIDE)[:, None, None]
    moments = []
    for moment in range(MOMENTS):
        canvas = ground
        for actor, tint in zip(scene.actors, tints, strict=True):
            thing = actor.at(moment)
            if thing is not None:
                if thing.kind == "sign":
                    canvas = canvas + (WHITE - canvas) * _mask(thing)[..., None]
                    thing = _printed(thing)
                color = ((np.array(COLORS[thing.color]) + tint) * shades).astype(np.float32)
                canvas = canvas + (color - canvas) * _mask(thing)[..., None]
        moments.append(canvas)
    frames = np.repeat(np.stack(moments), PER_MOMENT, 0)
    frames = frames + 6 * rng.standard_normal(frames.shape, np.float32)
    return frames.clip(0, 255).astype(np.uint8)


def film(scene: VideoScene) -> Video:
    """Return the clip as a video: 16 frames, two per second."""
    frames = tuple(Image.fromarray(frame) for frame in paint(scene))
    return Video(frames, tuple(number / RATE for number in range(FRAMES)))


@dataclass(frozen=True)
class Footage:
    """A clip as a sample's video, rendered on demand at the size that a model reads."""

    scene: VideoScene

    @property
    def key(self) -> str:
        return repr(self.scene)

    def __call__(self) -> Video:
        return self.at(SIDE)

    def at(self, side: int) -> Video:
        """Return the clip enlarged to the largest integer multiple that is at most `side` pixels high."""
        made = _developed(self.scene)
        if (scale := side // SIDE) < 2:
            return made
        size = SIDE * scale, SIDE * scale
        return replace(made, frames=tuple(one.resize(size, Image.Resampling.NEAREST) for one in made.frames))


@lru_cache(maxsize=400)  # two benchmarks of 200, half a megabyte per clip: all methods read the same clips
def _developed(scene: VideoScene) -> Video:
    return film(scene)


@lru_cache(maxsize=2048)
def owners(scene: VideoScene) -> NDArray[np.int16]:
    """Return the actor [8, 6, 6] that covers most of each cell at each moment; -1 for background.

    A moment has two frames; the cells of 16 x 16 pixels are the visual tokens of `micro-video`.
    """
    share = np.zeros((len(scene.actors) + 1, MOMENTS, CELLS, CELLS), np.float32)
    share[0] = 0.04
    for number, actor in enumerate(scene.actors):
        for moment in range(actor.first, actor.last + 1):
            thing = actor.at(moment)
            assert thing is not None
            cells = _mask(thing).reshape(CELLS, CELL, CELLS, CELL)
            share[number + 1, moment] = cells.mean((1, 3))
    return (share.argmax(0) - 1).astype(np.int16)


def _printed(sign: Thing) -> Thing:
    """Return the shape on a sign."""
    side = PLATE - 2 * MARGIN
    return Thing(sign.text, sign.color, sign.x, sign.y, side, side)


def _mask(thing: Thing) -> NDArray[np.float32]:
    if thing.kind == "sign":
        plate = np.zeros((SIDE, SIDE), np.float32)
        top, left = int(thing.y - PLATE / 2), int(thing.x - PLATE / 2)
        plate[top : top + PLATE, left : left + PLATE] = 1
        return plate
    tile, left, top = shape_mask(thing)
    return placed(tile, left, top, (SIDE, SIDE))


def _actor(rng: np.random.Generator, kind: str, color: str, then: str | None) -> Actor:
    """Draw a shape that stands still or moves and is present for three to six moments."""
    side = float(rng.uniform(19, 27))
    way = list(STEPS)[int(rng.integers(4))] if rng.random() < 0.55 else None
    stay = int(rng.integers(4 if way or then else 3, 7))
    first = int(rng.integers(MOMENTS - stay + 1))
    x, y = rng.uniform(side / 2 + 1, SIDE - side / 2 - 1, 2).tolist()
    speed = 0.0
    if way:
        far = float(rng.uniform(38, SIDE - side - 3))
        speed = far / (stay - 1)
        start = float(rng.uniform(side / 2 + 1, SIDE - side / 2 - 1 - far))
        start = start if way in ("right", "down") else SIDE - start
        x, y = (start, y) if way in ("left", "right") else (x, start)
    turn = first + int(rng.integers(2, stay - 1)) if then else None
    thing = Thing(kind, color, x, y, side, side, float(rng.uniform(-14, 14)))
    return Actor(thing, first, first + stay - 1, way, speed, turn, then)


def _apart(a: Actor, b: Actor) -> bool:
    """Return whether two actors never touch."""
    for moment in range(max(a.first, b.first), min(a.last, b.last) + 1):
        one, other = a.at(moment), b.at(moment)
        assert one is not None and other is not None
        wide, high = (one.width + other.width) / 2, (one.height + other.height) / 2
        if abs(one.x - other.x) < wide + GAP and abs(one.y - other.y) < high + GAP:
            return False
    return True
