"""The busy world: many small things on several grounds, so that the relevant tokens depend on the question.

A scene of 192 x 192 pixels contains 30 to 40 things, or 8 to 20 in the sparser half of the scenes: coloured
shapes, and signs, which are coloured plates with three to five printed characters. A character fits into one
8 x 8 patch, so no single patch contains the text of a sign. A scene is determined by `(split, seed)` alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from compress.micro import world
from compress.micro.world import (
    COLOR_WEIGHTS,
    COLORS,
    PATCH,
    SHAPE_WEIGHTS,
    SHAPES,
    check_spoil,
    shape_mask,
)
from compress.micro.world import Thing as Shape

SIDE = 192
GRID = SIDE // PATCH
KINDS = (*SHAPES, "sign")
GROUNDS = ("plain", "stripes", "dots", "checks", "waves", "bricks")
CHARACTERS = "0123456789efhklnptux"
GAP = 2  # minimum distance of two things in pixels

# Each glyph is seven rows of five dots.
_FONT = {
    "0": "01110 10001 10011 10101 11001 10001 01110", "1": "00100 01100 00100 00100 00100 00100 01110",
    "2": "01110 10001 00001 00110 01000 10000 11111", "3": "11110 00001 00001 01110 00001 00001 11110",
    "4": "00010 00110 01010 10010 11111 00010 00010", "5": "11111 10000 11110 00001 00001 10001 01110",
    "6": "00110 01000 10000 11110 10001 10001 01110", "7": "11111 00001 00010 00100 01000 01000 01000",
    "8": "01110 10001 10001 01110 10001 10001 01110", "9": "01110 10001 10001 01111 00001 00010 01100",
    "e": "11111 10000 10000 11110 10000 10000 11111", "f": "11111 10000 10000 11110 10000 10000 10000",
    "h": "10001 10001 10001 11111 10001 10001 10001", "k": "10001 10010 10100 11000 10100 10010 10001",
    "l": "10000 10000 10000 10000 10000 10000 11111", "n": "10001 11001 11001 10101 10011 10011 10001",
    "p": "11110 10001 10001 11110 10000 10000 10000", "t": "11111 00100 00100 00100 00100 00100 00100",
    "u": "10001 10001 10001 10001 10001 10001 01110", "x": "10001 10001 01010 00100 01010 10001 10001",
}  # fmt: skip
GLYPHS = {
    c: np.array([[float(d) for d in row] for row in rows.split()], np.float32) for c, rows in _FONT.items()
}


@dataclass(frozen=True)
class BusyThing:
    """A shape or a sign. `left`, `top`, `width` and `height` are whole pixels, `angle` is in degrees.

    The thing is completely on one `ground`. `text` is the text of a sign, e.g. "4k7".
    """

    kind: str
    color: str
    ground: str
    left: int
    top: int
    width: int
    height: int
    angle: int = 0
    text: str = ""

    @property
    def x(self) -> float:
        """The centre's column in pixels."""
        return self.left + self.width / 2

    @property
    def y(self) -> float:
        """The centre's row in pixels."""
        return self.top + self.height / 2

    def distance(self, x: float, y: float) -> float:
        """Return the distance from a point to the nearest point of the thing's box, in pixels."""
        dx = max(self.left - x, x - self.left - self.width, 0.0)
        dy = max(self.top - y, y - self.top - self.height, 0.0)
        return float(np.hypot(dx, dy))


@dataclass(frozen=True)
class Region:
    """A ground and its centre: it covers all pixels that are nearest to this centre (Voronoi cell)."""

    ground: str
    x: float
    y: float


@dataclass(frozen=True)
class BusyScene:
    """The content of an image. `spoil` is a defect of the photograph.

    `cover` is the rectangle (left, top, right, bottom) that the defect "cut" hides.
    """

    split: str
    seed: int
    things: tuple[BusyThing, ...]
    regions: tuple[Region, ...]
    spoil: str | None = None
    cover: tuple[int, int, int, int] | None = None

    def visible(self) -> tuple[int, ...]:
        """Return the numbers of the things whose centre is not hidden."""
        if self.cover is None:
            return tuple(range(len(self.things)))
        left, top, right, bottom = self.cover
        return tuple(
            i for i, t in enumerate(self.things) if not (left <= t.x < right and top <= t.y < bottom)
        )


def rng_of(split: str, seed: int, purpose: int = 0) -> np.random.Generator:
    """Return the random generator of one scene, independent of all streams of the micro world.

    `purpose` separates layout (0), pixels (1) and questions (2 and up).
    """
    return world.rng_of(split, seed, purpose, apart=(SIDE,))


def scene(split: str, seed: int, spoil: str | None = None) -> BusyScene:
    """Build the scene of one seed; even seeds are crowded, odd ones sparser."""
    rng = rng_of(split, seed)
    crowded = seed % 2 == 0
    count = int(rng.integers(30, 41) if crowded else rng.integers(8, 21))
    signs = int(rng.integers(9, 13) if crowded else rng.integers(3, 6))
    regions = _regions(rng)
    taken = np.zeros((SIDE, SIDE), bool)
    kinds = ["sign"] * signs + [
        SHAPES[int(i)] for i in rng.choice(len(SHAPES), count - signs, p=SHAPE_WEIGHTS / SHAPE_WEIGHTS.sum())
    ]
    colors = list(COLORS)
    hues = rng.choice(len(colors), count, p=COLOR_WEIGHTS / COLOR_WEIGHTS.sum())
    sides = rng.integers(11, 21, count)
    things = []
    for kind, hue, side in zip(kinds, hues.tolist(), sides.tolist(), strict=True):
        thing = _placed(rng, kind, colors[hue], side, regions, taken)
        if thing is not None:
            things.append(thing)
    order = rng.permutation(len(things))
    made = BusyScene(split, seed, tuple(things[i] for i in order), regions)
    return spoiled(made, spoil) if spoil else made


def spoiled(scene: BusyScene, spoil: str) -> BusyScene:
    """Return the scene with a photographic defect: blurred, dark, or with a finger that hides a thing."""
    check_spoil(spoil)
    if spoil != "cut":
        return replace(scene, spoil=spoil)
    rng = rng_of(scene.split, scene.seed, 3)
    victim = scene.things[int(rng.integers(len(scene.things)))]
    box = (
        max(0, victim.left - 4),
        max(0, victim.top - 4),
        min(SIDE, victim.left + victim.width + 4),
        min(SIDE, victim.top + victim.height + 4),
    )
    return replace(scene, spoil=spoil, cover=box)


def render(scene: BusyScene) -> Image.Image:
    """Return the photograph, RGB, 192 x 192."""
    return Image.fromarray(paint(scene)[0])


@dataclass(frozen=True)
class BusyPhotograph:
    """A scene as a sample's picture, rendered on demand."""

    scene: BusyScene

    @property
    def key(self) -> str:
        return repr(self.scene)

    def __call__(self) -> Image.Image:
        if self.scene.split == "train":  # not cached: one of many thousands, each used once
            return render(self.scene)
        return _developed(self.scene)

    def at(self, side: int) -> Image.Image:
        """Return the photograph, which has one size for all models."""
        return self()


@lru_cache(maxsize=1200)
def _developed(scene: BusyScene) -> Image.Image:
    return render(scene)


@dataclass(frozen=True)
class Patches:
    """The contents of the 24 x 24 patches of a scene, row by row."""

    owner: NDArray[np.int16]  # [576] the thing that covers most of the patch; -1 none
    cover: NDArray[np.float32]  # [576] the share of the patch that it covers
    character: NDArray[np.int16]  # [576] index in CHARACTERS of the character in the patch; -1 none
    region: NDArray[np.int16]  # [576] the region at the centre of the patch


def paint(scene: BusyScene) -> tuple[NDArray[np.uint8], Patches]:
    """Return the pixels [192, 192, 3] and the contents of the patches. Hidden things count as ground."""
    rng = rng_of(scene.split, scene.seed, 1)
    where = _nearest(scene.regions)
    canvas = _grounds(rng, scene.regions, where)
    owner = np.full(GRID * GRID, -1, np.int16)
    most = np.zeros(GRID * GRID, np.float32)
    character = np.full(GRID * GRID, -1, np.int16)
    tints = rng.normal(0, 9, (len(scene.things), 3)).astype(np.float32)
    shades = rng.uniform(0.85, 1.1, len(scene.things)).astype(np.float32)
    hidden = set(range(len(scene.things))) - set(scene.visible())
    for i, thing in enumerate(scene.things):
        color = (np.array(COLORS[thing.color], np.float32) + tints[i]) * shades[i]
        mask = _sprite(thing.kind, thing.width, thing.height, thing.angle)
        rows, columns = (
            slice(thing.top, thing.top + mask.shape[0]),
            slice(thing.left, thing.left + mask.shape[1]),
        )
        view = canvas[rows, columns]
        view += (color - view) * mask[..., None]
        if thing.text:
            ink = np.float32(25 if color @ (0.3, 0.6, 0.1) > 105 else 245)
            for n, letter in enumerate(thing.text):
                top, left = thing.top + MARGIN, thing.left + MARGIN + n * PATCH
                spot = canvas[top : top + 7, left : left + 5]
                spot += (ink - spot) * GLYPHS[letter][..., None]
                if i not in hidden:
                    character[(top + 3) // PATCH * GRID + (left + 2) // PATCH] = CHARACTERS.index(letter)
        if i in hidden:
            continue
        first_row, first_column = thing.top // PATCH, thing.left // PATCH
        part = _shares(
            thing.kind, thing.width, thing.height, thing.angle, thing.top % PATCH, thing.left % PATCH
        )
        cells = (
            (np.arange(part.shape[0])[:, None] + first_row) * GRID + np.arange(part.shape[1]) + first_column
        )
        inside = part > most[cells]
        owner[cells[inside]], most[cells[inside]] = i, part[inside]
    if scene.cover is not None:
        left, top, right, bottom = scene.cover
        canvas[top:bottom, left:right] = (196, 150, 128)
    if scene.spoil == "blur":
        soft = Image.fromarray(canvas.clip(0, 255).astype(np.uint8))
        canvas = np.asarray(soft.filter(ImageFilter.GaussianBlur(rng.uniform(0.7, 1.1))), np.float32)
    if scene.spoil == "dark":
        canvas = canvas * np.float32(rng.uniform(0.35, 0.5))
    canvas = canvas + 6 * rng.standard_normal(canvas.shape, np.float32)
    region = where[PATCH // 2 :: PATCH, PATCH // 2 :: PATCH].ravel().astype(np.int16)
    owner[most < 0.02] = -1
    return canvas.clip(0, 255).astype(np.uint8), Patches(owner, most, character, region)


MARGIN = 3  # pixels of plate around the characters of a sign


def _placed(
    rng: np.random.Generator,
    kind: str,
    color: str,
    side: int,
    regions: tuple[Region, ...],
    taken: NDArray[np.bool_],
) -> BusyThing | None:
    """Place a thing on one ground, apart from all others, and mark its pixels; None if there is no room."""
    text, angle, tries = "", 0, 120
    if kind == "sign":
        text = "".join(CHARACTERS[i] for i in rng.integers(len(CHARACTERS), size=int(rng.integers(3, 6))))
        width, height = len(text) * PATCH - 3 + 2 * MARGIN, 7 + 2 * MARGIN
        # Characters are five dots wide in steps of eight: at these offsets each lies in one patch.
        columns = rng.integers(1, GRID - len(text), tries) * PATCH + rng.integers(0, 4, tries) - MARGIN
        rows = rng.integers(1, GRID - 1, tries) * PATCH + rng.integers(0, 2, tries) - MARGIN
    else:
        width = height = side
        angle = int(rng.integers(-2, 3)) * 7
        columns, rows = rng.integers(1, SIDE - side - 1, (2, tries))
    for left, top in zip(columns.tolist(), rows.tolist(), strict=True):
        if left + width >= SIDE or top + height >= SIDE:
            continue
        corners = [(left, top), (left + width, top), (left, top + height), (left + width, top + height)]
        over = {_region(regions, x, y) for x, y in corners}  # regions are convex
        box = taken[max(top - GAP, 0) : top + height + GAP, max(left - GAP, 0) : left + width + GAP]
        if len(over) > 1 or box.any():
            continue
        taken[top : top + height, left : left + width] = True
        return BusyThing(kind, color, regions[over.pop()].ground, left, top, width, height, angle, text)
    return None


def _regions(rng: np.random.Generator) -> tuple[Region, ...]:
    """Draw two to four different grounds."""
    count = int(rng.integers(2, 5))
    names = rng.permutation(len(GROUNDS))[:count]
    places: list[tuple[float, float]] = []
    while len(places) < count:
        x, y = rng.uniform(24, SIDE - 24, 2).tolist()
        if all((x - a) ** 2 + (y - b) ** 2 > 64**2 for a, b in places):
            places.append((x, y))
    return tuple(Region(GROUNDS[n], x, y) for n, (x, y) in zip(names.tolist(), places, strict=True))


def _region(regions: tuple[Region, ...], x: float, y: float) -> int:
    return min(range(len(regions)), key=lambda i: (regions[i].x - x) ** 2 + (regions[i].y - y) ** 2)


def _nearest(regions: tuple[Region, ...]) -> NDArray[np.int64]:
    """Return the region [192, 192] of every pixel."""
    line = np.arange(SIDE, dtype=np.float32) + np.float32(0.5)
    far = [(line - np.float32(r.x))[None] ** 2 + (line - np.float32(r.y))[:, None] ** 2 for r in regions]
    return np.stack(far).argmin(0)


_Y, _X = np.mgrid[0:SIDE, 0:SIDE].astype(np.float32)


def _grounds(
    rng: np.random.Generator, regions: tuple[Region, ...], where: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Paint the ground alone, [192, 192, 3]."""
    canvas = np.empty((SIDE, SIDE, 3), np.float32)
    for number, region in enumerate(regions):
        inside = where == number
        field = _texture(rng, region.ground, _X[inside], _Y[inside])
        low, spread = rng.uniform(70, 150), rng.uniform(35, 55)
        tint = rng.normal(0, 7, 3)
        canvas[inside] = (low + spread * field[:, None] + tint).astype(np.float32)
    return canvas


def _texture(
    rng: np.random.Generator, ground: str, x: NDArray[np.float32], y: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return the brightness of pixels in [0, 1]; one period is about a patch."""
    step, phase, turn = (
        np.float32(v) for v in (rng.uniform(6, 9), rng.uniform(0, 10), rng.uniform(0, np.pi))
    )
    full = np.float32(2 * np.pi)
    if ground == "stripes":
        return (np.sin((x * np.cos(turn) + y * np.sin(turn) + phase) * full / step) > 0).astype(np.float32)
    if ground == "dots":
        dx, dy = (x + phase) % step - step / 2, (y + phase) % step - step / 2
        return (dx * dx + dy * dy < step).astype(np.float32)
    if ground == "checks":
        return ((x + phase) // (step * 0.7) + (y + phase) // (step * 0.7)) % 2
    if ground == "waves":
        bent = y + 4 * np.sin(x * full / (2.5 * step))
        return np.float32(0.5) + np.float32(0.5) * np.sin(bent * full / step)
    if ground == "bricks":
        tall = step * np.float32(0.7)
        row = (y + phase) // tall
        joint = ((y + phase) % tall < 1.6) | (
            (x + row * step * np.float32(0.8)) % (step * np.float32(1.6)) < 1.6
        )
        return 1 - joint.astype(np.float32)
    return np.full(x.shape, 0.5, np.float32)


@lru_cache(maxsize=4000)
def _sprite(kind: str, width: int, height: int, angle: int) -> NDArray[np.float32]:
    """Return the share [height, width] of every pixel that a thing covers."""
    if kind == "sign":
        mask = np.ones((height, width), np.float32)
        mask[[0, 0, -1, -1], [0, -1, 0, -1]] = 0.3  # rounded corners
        return mask
    # Drawn around a whole pixel, then cropped to its box, which contains the whole shape.
    tile, left, top = shape_mask(
        Shape(kind, "red", 40 + width / 2, 40 + height / 2, width - 1, height - 1, angle)
    )
    whole = np.asarray(tile, np.float32) / np.float32(255)
    return whole[40 - top : 40 - top + height, 40 - left : 40 - left + width]


@lru_cache(maxsize=40_000)
def _shares(kind: str, width: int, height: int, angle: int, row: int, column: int) -> NDArray[np.float32]:
    """Return the share of every patch that a thing covers; its box starts at `row`, `column` of the first."""
    mask = _sprite(kind, width, height, angle)
    padded = np.zeros(
        (-(-(row + height) // PATCH) * PATCH, -(-(column + width) // PATCH) * PATCH), np.float32
    )
    padded[row : row + height, column : column + width] = mask
    rows, columns = padded.shape[0] // PATCH, padded.shape[1] // PATCH
    return padded.reshape(rows, PATCH, columns, PATCH).mean((1, 3))
