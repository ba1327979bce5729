"""Shared functions of methods that compare the frames of a video, or treat each frame separately.

A token of a video has a frame and a place in it; places are in raster order. Newlines belong to no frame.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from baselines.lattices import centres
from compress.base import Selection, View

Counts = Sequence[int]


def frames_of(view: View, method: str) -> Tensor:
    """Return the rows [F, n] of the tokens of every frame, by place.

    ValueError, which names `method`, for an image and for a video with missing tokens.
    """
    if view.frame is None:
        raise ValueError(
            f"{method} chooses between the frames of a video, and this is an image: give a video, or choose "
            "another method"
        )
    rows = (view.frame >= 0).nonzero()[:, 0]
    rows = rows[view.frame[rows].sort(stable=True).indices]
    high, wide = view.grid
    if len(rows) != view.frames * high * wide:
        raise ValueError(
            f"{method} needs all tokens of {view.frames} frames of {high} x {wide}, not {len(rows)} of them"
        )
    return rows.view(view.frames, high * wide)


def newlines_of(view: View, keep: int) -> Tensor:
    """Return the rows of the kept newlines of a video: all of them, up to half of the budget."""
    assert view.frame is not None
    return (view.frame < 0).nonzero()[: keep // 2, 0]


def merged_into(
    view: View, rows: Tensor, newlines: Tensor, index: Tensor, tokens: Tensor, into: Tensor
) -> Selection:
    """Build a selection of merged tokens of frames, followed by the newlines.

    `index` [K] numbers the tokens of `rows` [F, n] consecutively; `tokens` [K, C] are the outputs, and `into`
    [F * n] is the output that each token was merged into, -1 = none.
    """
    joined = torch.full_like(view.index, -1)
    joined[rows.flatten()] = into
    joined[newlines] = len(index) + torch.arange(len(newlines), device=rows.device)
    values = torch.cat([tokens.to(view.hidden.dtype), view.hidden[newlines]])
    return Selection(torch.cat([rows.flatten()[index], newlines]), values, joined)


def evenly(room: Counts, count: int) -> list[int]:
    """Return integers at most `room`, as equal as possible, with sum `count`.

    The parts that get one more are spaced evenly. `count` must not exceed the sum of `room`.
    """
    shares = [0] * len(room)
    while count:
        free = [part for part, most in enumerate(room) if shares[part] < most]
        if count < len(free):
            for part in centres(len(free), count):
                shares[free[part]] += 1
            break
        more = min(count // len(free), *(room[part] - shares[part] for part in free))
        for part in free:
            shares[part] += more
        count -= more * len(free)
    return shares


def solved(counts: Callable[[float], Counts], sizes: Iterable[int], keep: int) -> list[int]:
    """Return the counts of parts of `sizes` for the ratio at which they add up to `keep`.

    `counts` returns them for a ratio from 0 to 1: a part's size times the ratio, rounded in any way. If
    several parts grow at the same ratio, the ones that get a token are spaced evenly. `keep` must not exceed
    the sum of the counts for a ratio of 1.
    """
    changes = sorted({0.0, 1.0, *(step / (2 * size) for size in {*sizes} - {0} for step in range(2 * size))})
    ratios = [*((low + high) / 2 for low, high in pairwise(changes)), 1.0]
    above = bisect_right(ratios, keep, key=lambda ratio: sum(counts(ratio)))
    if above == len(ratios):
        return [*counts(1.0)]
    more = counts(ratios[above])
    less = counts(ratios[above - 1]) if above else [0] * len(more)
    room = [high - low for low, high in zip(less, more, strict=True)]
    extra = evenly(room, keep - sum(less))
    return [low + one for low, one in zip(less, extra, strict=True)]


def raised(threshold: float, values: Tensor, fits: Callable[[float], bool]) -> float:
    """Return the lowest of `threshold` and the `values` above it that `fits`; the highest value must fit."""
    if fits(threshold):
        return threshold
    higher = values[values > threshold].unique().tolist()
    return higher[bisect_left(higher, True, key=fits)]


def cosine(left: Tensor, right: Tensor) -> Tensor:
    """Return the cosine [...] of vectors [..., C], in float32."""
    return torch.nn.functional.cosine_similarity(left.float(), right.float(), dim=-1)
