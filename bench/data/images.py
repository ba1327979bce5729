"""Images of a data set, opened one by one when they are looked at: files, base64 text, rows of Parquet files.

Opened by content, not by name, as RGB: the first frame of an animation, 16-bit depth scaled to 8, and
transparency dropped (as LLaVA's scripts do).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import warnings
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from PIL import Image, UnidentifiedImageError

from compress.samples import Picture

CLIP_MEAN = (122, 116, 104)  # of 255: CLIP's mean colour, cut to whole numbers
CACHED = 2  # row groups of images in memory


def open_rgb(source: Path | bytes, name: str) -> Image.Image:
    """The image in RGB; ValueError with `name` and the reason if it cannot be had whole.

    More than PIL's limit of pixels (89 million) is refused before any is decoded.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(source if isinstance(source, Path) else BytesIO(source)) as image:
                return _rgb(image)
    except FileNotFoundError as problem:
        raise ValueError(f"there is no image at {name}") from problem
    except (
        OSError, SyntaxError, ValueError, Image.DecompressionBombError, Image.DecompressionBombWarning,
    ) as problem:  # fmt: skip
        why = "it is none" if isinstance(problem, UnidentifiedImageError) else str(problem)
        raise ValueError(f"{name} cannot be read as an image ({why})") from problem


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "I" or image.mode.startswith("I;16"):  # PIL would clip at 255 instead of scaling
        deep = np.asarray(image, np.float64).clip(0, 65535)
        return Image.fromarray((deep / 257).round().astype(np.uint8)).convert("RGB")
    return image.convert("RGB")


@dataclass(frozen=True)
class ImageFile:
    """A file below the folder `root`, named as the data set names it."""

    root: Path
    name: str  # with forward slashes

    def __post_init__(self) -> None:
        place = PurePosixPath(self.name.replace("\\", "/"))
        if place.is_absolute() or ".." in place.parts or not place.parts or ":" in place.parts[0]:
            raise ValueError(f"the image name '{self.name}' leads out of {self.root}: it is not used")

    @property
    def path(self) -> Path:
        return self.root / self.name

    @property
    def key(self) -> str:
        size = self.path.stat().st_size if self.path.is_file() else -1
        return f"{self.name} {size}"

    def __call__(self) -> Image.Image:
        return open_rgb(self.path, str(self.path))


@dataclass(frozen=True)
class ImageText:
    """A picture as base64 text, as MMBench's tables have it."""

    name: str
    text: str

    @property
    def key(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()

    def __call__(self) -> Image.Image:
        try:
            content = base64.b64decode(self.text, validate=True)
        except (binascii.Error, ValueError) as problem:
            raise ValueError(
                f"{self.name} cannot be read as an image (its base64 text is broken)"
            ) from problem
        return open_rgb(content, self.name)


@dataclass(frozen=True)
class ImageRow:
    """The picture in one row of a Parquet file: a struct of `bytes` and `path`, as `datasets` writes it."""

    path: Path
    group: int
    row: int
    column: str = "image"

    @property
    def key(self) -> str:
        return f"{self.path.name} {self.path.stat().st_size} {self.group} {self.row}"

    def __call__(self) -> Image.Image:
        name = f"{self.path}, row group {self.group}, row {self.row}"
        content = _images(self.path, self.group, self.column)[self.row].as_py()
        if not content or not content.get("bytes"):
            raise ValueError(f"{name}: there is no image in this row")
        return open_rgb(content["bytes"], name)


@lru_cache(maxsize=CACHED)
def _images(path: Path, group: int, column: str) -> Any:
    """The images of a row group, still encoded: neighbours are looked at together."""
    with pq.ParquetFile(path) as file:
        return file.read_row_group(group, columns=[column])[column].combine_chunks()


@dataclass(frozen=True)
class HubImage:
    """The picture in one row of a data set that `datasets` has loaded with images left encoded."""

    rows: Any
    row: int
    name: str

    @property
    def key(self) -> str:
        return self.name

    def __call__(self) -> Image.Image:
        return open_rgb(self.rows[self.row]["image"]["bytes"], self.name)


@dataclass(frozen=True)
class Padded:
    """The picture in the middle of a square of CLIP's mean colour: LLaVA-1.5's `image_aspect_ratio=pad`."""

    picture: Picture

    @property
    def key(self) -> str:
        return f"padded {self.picture.key}"

    def __call__(self) -> Image.Image:
        image = self.picture()
        side = max(image.size)
        if image.size == (side, side):
            return image
        square = Image.new("RGB", (side, side), CLIP_MEAN)
        square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
        return square
