from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from baselines.lattices import lattice
from baselines.videos import cosine, evenly, frames_of, newlines_of
from compress.base import Selection, Selector, View

GROUP = 4  # frames of which the first stays whole


@dataclass
class DyCoke(Selector):
    """Keep every fourth frame whole, and of those between what differs most from the same place before.

    "DyCoke: Dynamic Compression of Tokens for Fast Video Large Language Models" (Tao et al., CVPR 2025), its
    first stage, temporal merging, which drops tokens. Acts at the decoder's input; positions are contiguous.
    A frame with an odd number is compared with the one before it, the third of four with the first; they
    pass on their least similar tokens by rising similarity. The third frame of the last four stays whole.

    The second stage is left out. Where the attention that a new token pays to the video has changed since the
    token before it, that stage lets the later layers read a fifth of the video's keys, in this step alone. It
    shortens no cache, so no budget counts it. A decoding step would depend on the step before it. Here it
    depends on the prefill and the cache alone, and only so can a cache be copied, cropped to text, or have
    its rows moved (beams), under any method.

    Departures: the budget says how many tokens the frames between pass on, as equal numbers as possible. The
    code loses the last of an odd number of frames (`last=lost`), here it stays whole, and fails for 4 frames
    or fewer. Where the whole frames alone exceed the budget, every 8th, 16th, ... stays whole instead, and a
    frame is compared with the one that the next finer pattern has in front of it (ours); a budget below one
    frame is spread evenly over the first. Newlines all stay, up to half of the budget.
    """

    last: Literal["kept", "lost"] = "kept"
    order: Literal["similarity", "raster"] = "similarity"
    positions = "compact"
    video = True

    def select(self, view: View, keep: int) -> Selection:
        rows, newlines = frames_of(view, "dycoke"), newlines_of(view, keep)
        share = keep - len(newlines)
        if share < rows.shape[1]:
            kept = rows[0, torch.tensor(lattice(*view.grid, share), device=rows.device)]
        else:
            kept = rows.flatten()[self.kept(view.hidden[rows], share)]
        if self.order == "raster":
            return Selection(torch.cat([kept, newlines]).sort().values)
        return Selection(torch.cat([kept, newlines]), reordered=True)

    def kept(self, frames: Tensor, keep: int) -> Tensor:
        """Indices [keep] into F * n, in the order in which they go on, of frames [F, n, C]; `keep` is n or
        more."""
        count, places, _ = frames.shape
        group = GROUP
        while (before := self.references(count, group)).count(None) * places > keep:
            group *= 2
        pruned = [frame for frame, reference in enumerate(before) if reference is not None]
        rest = min(keep - (len(before) - len(pruned)) * places, len(pruned) * places)
        shares = dict(zip(pruned, evenly([places] * len(pruned), rest), strict=True))
        index = []
        for frame, reference in enumerate(before):
            best = torch.arange(places, device=frames.device)
            if reference is not None:
                alike = cosine(frames[frame], frames[reference])
                best = alike.sort(stable=True).indices[: shares[frame]]
            index.append(best + frame * places)
        return torch.cat(index)

    def references(self, count: int, group: int) -> list[int | None]:
        """The frame that each of `count` frames is compared with; None = it stays whole. One that is lost is
        not listed."""
        found: list[int | None] = []
        for frame in range(count):
            step = frame & -frame  # the largest power of two that divides it
            official = step == 1 or (step == 2 and frame < count - 2)
            pruned = official if group == GROUP else frame % group > 0
            found.append(frame - step if pruned else None)
        return found[: count // 2 * 2] if self.last == "lost" else found
