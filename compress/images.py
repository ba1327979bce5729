"""Preprocessing of images for models: RGB, upright, and with a limited aspect ratio."""

from __future__ import annotations

import re
import warnings
from io import BytesIO
from math import isqrt
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from compress.documents import regular_file

LONGEST = 200  # maximum ratio of long to short side: resizing a thinner image takes all memory
SQUARE = 89_478_485  # maximum pixels of the square that an image is padded to: PIL's own limit
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")  # of pictures in a folder


def pictures_of(folder: Path) -> list[Path]:
    """The files of a folder with a picture's suffix, in natural order: 2.png before 10.png."""
    named = [one for one in folder.iterdir() if one.suffix.lower() in SUFFIXES and one.name[0] != "."]
    return sorted(named, key=_natural)


def _natural(path: Path) -> list[tuple[int, str]]:
    """Sort key that compares numbers in names by value."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", path.name)]


def open_rgb(source: Path | bytes, name: str, *, turned: bool = True) -> Image.Image:
    """The image in RGB; ValueError with `name` and the reason if it cannot be read completely.

    Images above PIL's limit of pixels (89 million) or with a side of more than 200 times the other are
    rejected before any pixel is decoded. `turned` applies the EXIF orientation.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(regular_file(source) if isinstance(source, Path) else BytesIO(source)) as image:
                return rgb(image, turned=turned)
    except FileNotFoundError as problem:
        raise ValueError(f"there is no image at {name}") from problem
    except (
        OSError, SyntaxError, ValueError, Image.DecompressionBombError, Image.DecompressionBombWarning,
    ) as problem:  # fmt: skip
        why = "it is none" if isinstance(problem, UnidentifiedImageError) else str(problem)
        raise ValueError(f"{name} cannot be read as an image ({why})") from problem


def rgb(image: Image.Image, *, turned: bool = True) -> Image.Image:
    """The image in RGB without metadata: first frame, 16-bit depth scaled to 8, transparency dropped.

    `turned` applies the EXIF orientation that cameras write. ValueError for an image that is too thin, before
    it is decoded.
    """
    check_shape(image.size)
    image.load()  # a broken file fails at this point; PIL also rotates TIFF files
    upright = _upright(image) if turned else image
    if upright.mode == "F" and not np.isfinite(np.asarray(upright)).all():
        raise ValueError("some of its pixels are not finite numbers")
    if upright.mode == "I" or upright.mode.startswith("I;16"):  # PIL would clip at 255 instead of scaling
        deep = np.asarray(upright, np.float64).clip(0, 65535)
        upright = Image.fromarray((deep / 257).round().astype(np.uint8))
    if upright.mode == "RGB" and not upright.info:
        return upright
    plain = upright.convert("RGB")
    plain.info = {}  # or the orientation would be applied again
    return plain


def check_shape(size: tuple[int, int]) -> None:
    """ValueError if one side, of width and height, is more than 200 times the other."""
    width, height = size
    if max(width, height) > LONGEST * min(width, height):
        raise ValueError(
            f"an image of {width} x {height} pixels is too thin: one side may be at most {LONGEST} times the "
            f"other; crop it"
        )


def before_padding(image: Image.Image) -> Image.Image:
    """The image, reduced by an integer factor if its square would exceed SQUARE pixels."""
    side, most = max(image.size), isqrt(SQUARE)
    return image.reduce(-(-side // most)) if side > most else image


def _upright(image: Any) -> Any:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # broken EXIF data raises many types of errors; the pixels are intact
        return image
