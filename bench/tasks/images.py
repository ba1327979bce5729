"""Images of a data set, opened one by one on access: files, base64 text, rows of Parquet files.

They are opened by content, not by name, as in `compress.images.rgb`: RGB, upright, without transparency (as
in LLaVA's scripts).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from compress.images import before_padding, open_rgb
from compress.samples import ImageSource

CLIP_MEAN = (122, 116, 104)  # of 255: CLIP's mean colour, cut to whole numbers
CACHED = 2  # row groups of images in memory


@dataclass(frozen=True)
class Encoded(ABC):
    """A picture stored as an encoded file; `turned` sets whether its EXIF orientation is applied."""

    turned: bool = field(default=True, kw_only=True)

    @property
    @abstractmethod
    def place(self) -> str:
        """An identifier of the file, the same on every machine."""

    @property
    def key(self) -> str:
        return f"{self.place} upright" if self.turned else self.place

    def as_stored(self) -> Self:
        """The same picture with its pixels as stored, as LLaVA's scripts open it."""
        return replace(self, turned=False)

    @abstractmethod
    def __call__(self) -> Image.Image: ...


def check_inside(root: Path, name: str) -> None:
    """ValueError for a file name that leads out of its folder."""
    place = PurePosixPath(name.replace("\\", "/"))
    if place.is_absolute() or ".." in place.parts or not place.parts or ":" in place.parts[0]:
        raise ValueError(f"the name '{name}' leads out of {root}: it is not used")


def bytes_in(path: Path) -> int | None:
    """Bytes of a file; None if it does not exist, also for an invalid name."""
    try:
        return path.stat().st_size if path.is_file() else None
    except (OSError, ValueError):
        return None


@dataclass(frozen=True)
class ImageFile(Encoded):
    """A file below the folder `root`, with its name in the data set."""

    root: Path
    name: str  # with forward slashes

    def __post_init__(self) -> None:
        check_inside(self.root, self.name)

    @property
    def path(self) -> Path:
        return self.root / self.name

    @property
    def size(self) -> int | None:
        """Bytes of the file; None if there is none."""
        return bytes_in(self.path)

    @property
    def place(self) -> str:
        size = self.size
        return f"{self.name} {-1 if size is None else size}"

    def __call__(self) -> Image.Image:
        return open_rgb(self.path, str(self.path), turned=self.turned)


@dataclass(frozen=True)
class ImageText(Encoded):
    """A picture as base64 text, as in MMBench's tables."""

    name: str
    text: str

    @property
    def place(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()

    def __call__(self) -> Image.Image:
        try:
            content = base64.b64decode(self.text, validate=True)
        except (binascii.Error, ValueError) as problem:
            raise ValueError(
                f"{self.name} cannot be read as an image (its base64 text is broken)"
            ) from problem
        return open_rgb(content, self.name, turned=self.turned)


@dataclass(frozen=True)
class ImageRow(Encoded):
    """The picture in one row of a Parquet file: a struct of `bytes` and `path`, as `datasets` writes it."""

    path: Path
    group: int
    row: int
    column: str = "image"

    @property
    def place(self) -> str:
        return f"{self.path.name} {self.path.stat().st_size} {self.group} {self.row}"

    def __call__(self) -> Image.Image:
        name = f"{self.path}, row group {self.group}, row {self.row}"
        try:
            content = _images(self.path, self.group, self.column)[self.row].as_py()
        except (KeyError, pa.ArrowException) as problem:
            raise ValueError(f"{name}: there is no column '{self.column}' of images") from problem
        if not isinstance(content, dict) or not isinstance(content.get("bytes"), bytes):
            raise ValueError(f"{name}: there is no image in this row")
        return open_rgb(content["bytes"], name, turned=self.turned)


@lru_cache(maxsize=CACHED)
def _images(path: Path, group: int, column: str) -> Any:
    """The encoded images of a row group; cached, because neighbours are usually read together."""
    with pq.ParquetFile(path) as file:
        return file.read_row_group(group, columns=[column])[column].combine_chunks()


@dataclass(frozen=True)
class HubImage(Encoded):
    """The picture in one row of a data set loaded by `datasets`, with images left encoded."""

    rows: Any
    row: int
    name: str
    column: str = "image"

    @property
    def place(self) -> str:
        return self.name

    def __call__(self) -> Image.Image:
        return open_rgb(self.rows[self.row][self.column]["bytes"], self.name, turned=self.turned)


@dataclass(frozen=True)
class Padded:
    """The picture in the middle of a square of CLIP's mean colour: LLaVA-1.5's `image_aspect_ratio=pad`."""

    picture: ImageSource

    @property
    def key(self) -> str:
        return f"padded {self.picture.key}"

    def __call__(self) -> Image.Image:
        image = self.picture()
        if image.width == image.height:
            return image
        image = before_padding(image)
        side = max(image.size)
        square = Image.new("RGB", (side, side), CLIP_MEAN)
        square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
        return square
