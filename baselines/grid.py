from __future__ import annotations

from dataclasses import dataclass

import torch

from baselines.lattices import centres, lattice, slices
from baselines.videos import frames_of, newlines_of
from compress.base import INPUT, Selection, Selector, Traits, View


@dataclass
class Grid(Selector):
    """Keep tokens spread evenly over the image: the control that does not read the image.

    The `keep` tokens are on about sqrt(keep) evenly spaced rows. If they do not fill a regular lattice, the
    rows share them as evenly as integers allow, so that the count is exact for every budget. In a tiled
    image, it keeps tokens at even steps in the decoder's reading order. In a video, it keeps such lattices of
    evenly spaced frames, with the same density in time as in space; all newlines stay, up to half of the
    budget.
    """

    depth: int = INPUT

    def choices(self, model: Traits) -> tuple[str, ...]:
        return ("tokens at even steps in reading order",) if model.tiles else ()

    def select(self, view: View, keep: int) -> Selection:
        if view.frame is not None:
            rows, newlines = frames_of(view, "grid"), newlines_of(view, keep)
            shares = slices(len(rows), rows.shape[1], keep - len(newlines))
            kept = [
                rows[frame, lattice(*view.grid, share)]
                for frame, share in zip(centres(len(rows), len(shares)), shares, strict=True)
            ]
            return Selection(torch.cat([*kept, newlines]).sort().values)
        if view.crop is not None:
            return Selection(torch.tensor(centres(len(view.hidden), keep), device=view.hidden.device))
        if len(view.hidden) != view.grid[0] * view.grid[1]:
            raise ValueError(
                f"grid needs all {view.grid[0]} x {view.grid[1]} tokens, not {len(view.hidden)} of them"
            )
        return Selection(torch.tensor(lattice(*view.grid, keep), device=view.hidden.device))
