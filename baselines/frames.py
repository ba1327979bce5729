from __future__ import annotations

from dataclasses import dataclass

import torch

from baselines.lattices import centres, lattice
from baselines.videos import frames_of, newlines_of
from compress.base import Selection, Selector, View


@dataclass
class Frames(Selector):
    """Whole frames of a video, evenly in time: the control that samples fewer frames.

    One frame more than fit whole has what is left of the budget, evenly spread over it; it is the last of
    them. Acts at the decoder's input. Newlines all stay, up to half of the budget.
    """

    video = True

    def select(self, view: View, keep: int) -> Selection:
        rows, newlines = frames_of(view, "frames"), newlines_of(view, keep)
        whole, rest = divmod(keep - len(newlines), rows.shape[1])
        chosen = rows[centres(len(rows), whole + bool(rest))]
        kept = [chosen[:whole].flatten(), newlines]
        if rest:
            kept.append(chosen[whole, lattice(*view.grid, rest)])
        return Selection(torch.cat(kept).sort().values)
