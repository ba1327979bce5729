"""The micro world: small noisy scenes of coloured shapes and handwritten numbers with known contents.

A scene is determined by `(split, seed)` alone, on every machine. Splits draw from disjoint seed streams *and*
disjoint handwritten digits (scikit-learn's bundled set), so no part of a test image occurs in training.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

SIDE, PATCH = 96, 8
GRID = SIDE // PATCH

SHAPES = ("circle", "square", "triangle", "star", "heart", "cross", "diamond", "ring", "moon", "hourglass")
COLORS = {
    "red": (225, 40, 40),
    "green": (40, 165, 60),
    "blue": (45, 80, 225),
    "yellow": (240, 215, 40),
    "purple": (140, 50, 170),
    "orange": (245, 135, 25),
    "cyan": (50, 205, 215),
    "pink": (245, 130, 185),
}
TEXTURES = ("plain", "stripes", "dots", "checks", "waves", "clouds", "bricks", "gradient")
SPOILS = ("blur", "dark", "cut")
SPLITS = ("train", "val", "test")

# Real scenes have common and rare things; popular negatives (POPE) need that.
SHAPE_WEIGHTS = np.array([1.6, 1.4, 1.2, 1.1, 1.0, 0.9, 0.8, 0.8, 0.7, 0.5])
COLOR_WEIGHTS = np.array([1.5, 1.1, 1.3, 1.0, 0.8, 0.9, 0.7, 0.7])


@dataclass(frozen=True)
class Thing:
    """A shape, or a handwritten number of one or two digits (kind "number"). Centre and size in pixels."""

    kind: str
    color: str
    x: float
    y: float
    width: float
    height: float
    angle: float = 0.0
    digits: tuple[int, ...] = ()  # rows of the bundled digit set
    text: str = ""  # the number, e.g. "47"


@dataclass(frozen=True)
class Scene:
    """The content of an image. `spoil` is a defect of the photograph, `cover` the rectangle that a cut hides.

    Coordinates are in pixels of the smallest photograph, whose `size` is (width, height).
    """

    split: str
    seed: int
    things: tuple[Thing, ...]
    texture: str
    tone: int
    spoil: str | None = None
    cover: tuple[int, int, int, int] | None = None
    size: tuple[int, int] = (SIDE, SIDE)

    def visible(self) -> tuple[Thing, ...]:
        """Return the things whose centre is not hidden."""
        if self.cover is None:
            return self.things
        left, top, right, bottom = self.cover
        return tuple(t for t in self.things if not (left <= t.x < right and top <= t.y < bottom))

    def cell(self, thing: Thing) -> tuple[int, int]:
        """Return row and column of a thing's centre on a 6 x 6 grid over the scene."""
        width, height = self.size
        return min(int(thing.y * 6 / height), 5), min(int(thing.x * 6 / width), 5)


def rng_of(split: str, seed: int, purpose: int = 0, *, apart: tuple[int, ...] = ()) -> np.random.Generator:
    """Return the random generator of one scene.

    `purpose` separates layout (0), pixels (1) and questions (2 and up); `apart` separates other worlds.
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split '{split}'; choose one of {', '.join(SPLITS)}")
    return np.random.default_rng(np.random.SeedSequence([*apart, SPLITS.index(split), seed, purpose]))


def scene(split: str, seed: int, spoil: str | None = None, size: tuple[int, int] = (SIDE, SIDE)) -> Scene:
    """Build the scene of one seed: 3 to 6 things that do not overlap, at most two of them numbers.

    Another `size` gives another scene, wide or tall, with things of the same size.
    """
    rng = rng_of(split, seed)
    count = int(rng.integers(3, 7))
    numbers = int(rng.choice([0, 1, 2], p=[0.35, 0.5, 0.15]))
    things: list[Thing] = []
    for i in range(count):
        for _ in range(60):
            thing = _thing(rng, split, i < numbers, size)
            if all(_apart(thing, other) for other in things):
                things.append(thing)
                break
    texture = TEXTURES[int(rng.integers(len(TEXTURES)))]
    order = rng.permutation(len(things))
    tone = int(rng.integers(1 << 30))
    made = Scene(split, seed, tuple(things[i] for i in order), texture, tone, size=size)
    return spoiled(made, spoil) if spoil else made


def check_spoil(spoil: str) -> None:
    """Raise ValueError for an unknown defect."""
    if spoil not in SPOILS:
        raise ValueError(f"unknown defect '{spoil}'; choose one of {', '.join(SPOILS)}")


def spoiled(scene: Scene, spoil: str) -> Scene:
    """Return the scene with a photographic defect: blurred, dark, or with a finger that hides one thing."""
    check_spoil(spoil)
    if spoil != "cut":
        return replace(scene, spoil=spoil)
    rng = rng_of(scene.split, scene.seed, 3)
    victim = scene.things[int(rng.integers(len(scene.things)))]
    half_w, half_h = victim.width / 2 + 4, victim.height / 2 + 4
    box = (
        max(0, int(victim.x - half_w)),
        max(0, int(victim.y - half_h)),
        min(scene.size[0], int(victim.x + half_w)),
        min(scene.size[1], int(victim.y + half_h)),
    )
    return replace(scene, spoil=spoil, cover=box)


def render(scene: Scene, scale: int = 1) -> Image.Image:
    """Return the photograph, RGB; `scale=2` renders the same scene with twice the resolution."""
    return Image.fromarray(_paint(scene, scale)[0])


@dataclass(frozen=True)
class Photograph:
    """A scene as a sample's picture, rendered on demand at the size that a model reads."""

    scene: Scene

    @property
    def key(self) -> str:
        return repr(self.scene)

    def __call__(self) -> Image.Image:
        return self.at(SIDE)

    def at(self, side: int) -> Image.Image:
        """Return the largest integer multiple of the smallest photograph within `side` pixels of height."""
        scale = max(1, side // SIDE)
        if self.scene.split == "train":  # not cached: one of many thousands, each used once
            return render(self.scene, scale)
        return _developed(self.scene, scale)


@lru_cache(maxsize=1200)  # six benchmarks of 200 scenes: all methods read the same ones
def _developed(scene: Scene, scale: int) -> Image.Image:
    return render(scene, scale)


def patch_labels(scene: Scene, scale: int = 1) -> tuple[Image.Image, NDArray[np.int64], NDArray[np.float32]]:
    """Return the photograph, the thing that each 8 x 8 patch shows, and the share of the patch it covers.

    Things are numbered from 0 in the scene's order; -1 is background, and areas hidden by a cut count as
    background.
    """
    pixels, masks = _paint(scene, scale)
    rows, columns = (side // PATCH for side in pixels.shape[:2])
    if not masks:
        return Image.fromarray(pixels), np.full((rows, columns), -1), np.zeros((rows, columns), np.float32)
    stack = np.stack(masks)
    if scene.cover is not None:
        left, top, right, bottom = (edge * scale for edge in scene.cover)
        stack[:, top:bottom, left:right] = 0
    share = stack.reshape(len(masks), rows, PATCH, columns, PATCH).mean((2, 4))
    owner, cover = share.argmax(0), share.max(0)
    return Image.fromarray(pixels), np.where(cover > 0.02, owner, -1), cover.astype(np.float32)


def _thing(rng: np.random.Generator, split: str, number: bool, size: tuple[int, int]) -> Thing:
    color = list(COLORS)[int(rng.choice(len(COLORS), p=COLOR_WEIGHTS / COLOR_WEIGHTS.sum()))]
    if number:
        rows = rng.choice(_digit_rows(split), size=1 + int(rng.random() < 0.5))
        height = float(rng.uniform(20, 26))
        width = height * 0.75 * len(rows)
        text = "".join(str(_digits()[1][row]) for row in rows)
        x = rng.uniform(width / 2 + 1, size[0] - width / 2 - 1)
        y = rng.uniform(height / 2 + 1, size[1] - height / 2 - 1)
        digits = tuple(int(row) for row in rows)
        return Thing("number", color, float(x), float(y), width, height, 0.0, digits, text)
    kind = SHAPES[int(rng.choice(len(SHAPES), p=SHAPE_WEIGHTS / SHAPE_WEIGHTS.sum()))]
    side = float(rng.uniform(14, 27))
    x, y = (rng.uniform(side / 2 + 1, edge - side / 2 - 1) for edge in size)
    return Thing(kind, color, float(x), float(y), side, side, float(rng.uniform(-14, 14)))


def _apart(a: Thing, b: Thing) -> bool:
    return abs(a.x - b.x) > (a.width + b.width) / 2 + 1 or abs(a.y - b.y) > (a.height + b.height) / 2 + 1


def _paint(scene: Scene, scale: int) -> tuple[NDArray[np.uint8], list[NDArray[np.float32]]]:
    rng = rng_of(scene.split, scene.seed, 1)
    width, height = scene.size
    canvas = background(scene.texture, scene.size, scale, np.random.default_rng(scene.tone))
    masks = []
    for thing in scene.things:
        large = _enlarged(thing, scale)
        tile, left, top = _number_mask(large) if thing.kind == "number" else shape_mask(large)
        mask = placed(tile, left, top, (width * scale, height * scale))
        color = np.array(COLORS[thing.color]) + rng.normal(0, 9, 3)
        shade = np.linspace(rng.uniform(0.85, 1.0), rng.uniform(1.0, 1.1), len(canvas))[:, None, None]
        canvas = canvas * (1 - mask[..., None]) + color * shade * mask[..., None]
        masks.append(mask)
    if scene.spoil == "cut" and scene.cover is not None:
        left, top, right, bottom = (edge * scale for edge in scene.cover)
        canvas[top:bottom, left:right] = (196, 150, 128)
    if scene.spoil == "blur":
        soft = Image.fromarray(canvas.clip(0, 255).astype(np.uint8))
        radius = rng.uniform(1.0, 1.6) * scale
        canvas = np.asarray(soft.filter(ImageFilter.GaussianBlur(radius)), np.float64)
    if scene.spoil == "dark":
        canvas = canvas * rng.uniform(0.35, 0.5)
    canvas = canvas + rng.normal(0, 7, canvas.shape)
    return canvas.clip(0, 255).astype(np.uint8), masks


def _enlarged(thing: Thing, scale: int) -> Thing:
    x, y, width, height = (scale * one for one in (thing.x, thing.y, thing.width, thing.height))
    return replace(thing, x=x, y=y, width=width, height=height)


def background(
    texture: str, size: tuple[int, int], scale: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Paint the background alone, [height * scale, width * scale, 3]."""
    width, height = size
    y, x = np.mgrid[0 : height * scale, 0 : width * scale] / scale
    step, phase, turn = rng.uniform(7, 13), rng.uniform(0, 10), rng.uniform(0, np.pi)
    along = x * np.cos(turn) + y * np.sin(turn) + phase
    if texture == "stripes":
        field = (np.sin(along * 2 * np.pi / step) > 0) * 1.0
    elif texture == "dots":
        field = ((((x + phase) % step) - step / 2) ** 2 + (((y + phase) % step) - step / 2) ** 2 < step) * 1.0
    elif texture == "checks":
        field = ((((x + phase) // step) + ((y + phase) // step)) % 2) * 1.0
    elif texture == "waves":
        field = 0.5 + 0.5 * np.sin((y + 4 * np.sin(x * 2 * np.pi / (2.5 * step))) * 2 * np.pi / step)
    elif texture == "clouds":
        coarse = Image.fromarray((rng.random((7, 7)) * 255).astype(np.uint8))
        large = coarse.resize((width * scale, height * scale), Image.Resampling.BICUBIC)
        field = np.asarray(large, np.float64) / 255
    elif texture == "bricks":
        row = (y + phase) // (step * 0.7)
        field = 1.0 - (((y + phase) % (step * 0.7) < 1.6) | ((x + row * step * 0.8) % (step * 1.6) < 1.6))
    elif texture == "gradient":
        field = (along - along.min()) / (along.max() - along.min())
    else:
        field = np.full(x.shape, 0.5)
    low, spread = rng.uniform(70, 150), rng.uniform(25, 45)
    tint = rng.normal(0, 7, 3)
    return (low + spread * field)[..., None] + tint


_OUTLINES: dict[str, list[tuple[float, float]]] = {
    "square": [(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)],
    "triangle": [(0, -1), (1, 0.85), (-1, 0.85)],
    "diamond": [(0, -1), (0.75, 0), (0, 1), (-0.75, 0)],
    "cross": [(-0.35, -1), (0.35, -1), (0.35, -0.35), (1, -0.35), (1, 0.35), (0.35, 0.35),
              (0.35, 1), (-0.35, 1), (-0.35, 0.35), (-1, 0.35), (-1, -0.35), (-0.35, -0.35)],
    "star": [(np.sin(i * np.pi / 5) * (1, 0.42)[i % 2], -np.cos(i * np.pi / 5) * (1, 0.42)[i % 2])
             for i in range(10)],
    "heart": [(np.sin(t) ** 3, -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)) / 15)
              for t in np.linspace(0, 2 * np.pi, 40, endpoint=False)],
    "hourglass": [(-0.95, -1), (0.95, -1), (0.15, 0), (0.95, 1), (-0.95, 1), (-0.15, 0)],
}  # fmt: skip


def shape_mask(thing: Thing, zoom: int = 4) -> tuple[Image.Image, int, int]:
    half = int(np.ceil(thing.width / 2)) + 2
    left, top = int(thing.x) - half, int(thing.y) - half
    side = 2 * half + 1
    tile = Image.new("L", (side * zoom, side * zoom))
    draw = ImageDraw.Draw(tile)
    cx, cy, r = (thing.x - left) * zoom, (thing.y - top) * zoom, thing.width / 2 * zoom

    def disc(x: float, y: float, radius: float, fill: int) -> None:
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=fill)

    if thing.kind in _OUTLINES:
        turn = np.deg2rad(thing.angle)
        points = np.array(_OUTLINES[thing.kind]) * r
        turned = points @ np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
        draw.polygon([(float(px + cx), float(py + cy)) for px, py in turned], fill=255)
    else:
        disc(cx, cy, r, 255)
        if thing.kind == "ring":
            disc(cx, cy, r * 0.52, 0)
        elif thing.kind == "moon":
            disc(cx + r * 0.5, cy - r * 0.15, r * 0.78, 0)
    return tile.resize((side, side), Image.Resampling.BOX), left, top


def _number_mask(thing: Thing) -> tuple[Image.Image, int, int]:
    images = _digits()[0]
    each, height = max(int(thing.width / len(thing.digits)), 1), int(thing.height)
    strip = Image.new("L", (each * len(thing.digits), height))
    for i, row in enumerate(thing.digits):
        glyph = Image.fromarray(np.minimum(images[row] * 24.0, 255).astype(np.uint8))
        strip.paste(glyph.resize((each, height), Image.Resampling.BICUBIC), (i * each, 0))
    return strip, int(thing.x - thing.width / 2), int(thing.y - thing.height / 2)


def placed(tile: Image.Image, left: int, top: int, size: tuple[int, int]) -> NDArray[np.float32]:
    whole = Image.new("L", size)
    whole.paste(tile, (left, top))
    return np.asarray(whole, np.float32) / np.float32(255)


@lru_cache(maxsize=1)
def _digits() -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    from sklearn.datasets import load_digits  # bundled with scikit-learn, no download

    bunch = load_digits()
    return bunch.images, bunch.target


def _digit_rows(split: str) -> NDArray[np.int64]:
    rows = np.arange(len(_digits()[1]))
    part = np.select([rows % 10 == 8, rows % 10 == 9], [1, 2], 0)
    return rows[part == SPLITS.index(split)]
