"""Videos by hand, as methods see them: four frames of 3 x 4 tokens, and signals drawn from a seed."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from compress.base import INPUT, VISION, View

FRAMES, ROWS, COLUMNS = 4, 3, 4
PLACES = ROWS * COLUMNS


def clip(
    frames: Tensor | None = None, newlines: int = 0, seed: int = 0, grid: tuple[int, int] = (ROWS, COLUMNS)
) -> View:
    """A video of frames [F, n, C], by default drawn, with newlines behind it, at the decoder's input."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    if frames is None:
        frames = drawn(FRAMES, PLACES, 16)
    count, places, width = frames.shape
    hidden = torch.cat([frames.reshape(-1, width), drawn(newlines, width)])
    total = len(hidden)
    attention, rows = drawn(2, total).softmax(-1), drawn(2, 5 + total, total).softmax(-1)
    keys, queries, probed, heads = (
        drawn(total, 2, 8), drawn(total, 2, 8), (drawn(count, 6), drawn(total)), drawn(2, count + total)
    )  # fmt: skip
    decoder_keys = drawn(total, 2, 8), drawn(5, 2, 8)
    unrotated = drawn(2 + total, 2, 8), drawn(2 + total, 2, 8), 2 + torch.arange(total)
    asked = drawn(6, width)
    return View(
        depth=INPUT,
        hidden=hidden,
        visual=hidden,
        text=drawn(5, width),
        index=torch.arange(total),
        grid=grid,
        before=2,
        inputs=hidden,
        context=drawn(5, width),
        frames=count,
        frame=torch.cat([torch.arange(count).repeat_interleave(places), torch.full((newlines,), -1)]),
        cls_token=drawn(count, width),
        cls=lambda layer: attention,
        received=lambda layer: attention,
        scores=lambda layer: heads,
        keys=lambda layer: keys,
        queries=lambda layer: queries,
        attention=lambda layer, asked: rows[:, : 5 + total if asked is None else len(asked)],
        decoder_keys=lambda layer: decoder_keys,
        unrotated=lambda layer: unrotated,
        norm=lambda states: states,
        projected=lambda: hidden,
        clip=lambda truncate: (hidden, hidden[:1] + 1),
        words=lambda pick: asked[: len(pick("what color is the red star ?"))],
        probe=lambda: probed,
        seed=lambda: seed,
    )


def left(view: View, rows: Tensor, depth: int, hidden: Tensor | None = None) -> View:
    """What a later stage sees of a view after only these rows went on."""
    shorter = {
        name: getattr(view, name)[rows] for name in ("hidden", "visual", "index", "frame")
    }  # a view of a video has them all
    attention = view.attention(0, None)[..., rows]
    return replace(
        view, depth=depth, **shorter | ({} if hidden is None else {"hidden": hidden}),
        attention=lambda layer, asked: attention[:, : len(asked)],
    )  # fmt: skip


def at_tower(view: View) -> View:
    """The same before the projector, where there are no newlines."""
    assert view.frame is not None
    rows = (view.frame >= 0).nonzero()[:, 0]
    frames = torch.arange(view.frames)  # whose own scores come first
    attention, scores = view.cls(0)[:, rows], view.scores(0)[:, torch.cat([frames, view.frames + rows])]
    keys, hidden = view.keys(0)[rows], view.hidden[rows]
    return replace(
        left(view, rows, VISION),
        visual=view.visual[:0],
        inputs=None,
        context=None,
        cls=lambda layer: attention,
        scores=lambda layer: scores,
        keys=lambda layer: keys,
        projected=lambda: hidden,
        clip=lambda truncate: (hidden, hidden[:1] + 1),
    )
