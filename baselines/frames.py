from __future__ import annotations

from dataclasses import dataclass

import torch

from baselines.lattices import centres, lattice
from baselines.videos import frames_of, newlines_of
from compress.base import Selection, Selector, View


@dataclass
class Frames(Selector):
    """Keep whole frames of a video, evenly spaced in time: the control that samples fewer frames.

    The last selected frame keeps the rest of the budget, spread evenly over the frame. Acts at the decoder's
    input. All newlines stay, up to half of the budget.
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
