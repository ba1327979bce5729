"""Arithmetic of evenly spaced tokens on grids and in time."""

from __future__ import annotations


def lattice(rows: int, columns: int, keep: int) -> list[int]:
    """Return ascending row-major indices of `keep` cells spread over a grid; 1 <= keep <= rows * columns."""
    shares = bands(rows, columns, keep)
    return [
        row * columns + column
        for row, share in zip(centres(rows, len(shares)), shares, strict=True)
        for column in centres(columns, share)
    ]


def bands(rows: int, columns: int, keep: int) -> list[int]:
    """Divide `keep` tokens over about sqrt(keep) rows, or bands of rows; at least one each."""
    lines = max(1, round((keep * rows / columns) ** 0.5), -(-keep // columns))
    lines = min(lines, rows, keep)
    return [keep * (line + 1) // lines - keep * line // lines for line in range(lines)]


def slices(frames: int, places: int, keep: int) -> list[int]:
    """Divide `keep` tokens over a number of frames, or runs of frames; at least one each.

    The number is such that tokens are as dense in time as along the sides of a frame of `places` tokens.
    """
    count = max(1, round(frames * (keep / (frames * places)) ** (1 / 3)), -(-keep // places))
    count = min(count, frames, keep)
    return [keep * (number + 1) // count - keep * number // count for number in range(count)]


def centres(length: int, count: int) -> list[int]:
    """Return the middle cells of `count` equal parts of `length` cells: distinct for count <= length."""
    return [(2 * part + 1) * length // (2 * count) for part in range(count)]
