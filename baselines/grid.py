from __future__ import annotations

from dataclasses import dataclass

import torch

from baselines.lattices import centres, lattice, slices
from baselines.videos import frames_of, newlines_of
from compress.base import INPUT, Selection, Selector, Traits, View


@dataclass
class Grid(Selector):
    """Tokens spread evenly over the image: the control that reads nothing of it.

    `keep` tokens lie on about sqrt(keep) evenly spaced rows. Where `keep` is not a full lattice the rows
    share the tokens as evenly as whole numbers allow, so that the count is exact for every budget. In an
    image in tiles, it keeps tokens at even steps in the order in which the decoder reads them. In a video, it
    keeps such lattices of evenly spaced frames, so that neighbours are as many tokens apart in time as in
    space; newlines all stay, up to half of the budget.
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
