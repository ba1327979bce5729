from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from baselines.lattices import lattice
from baselines.videos import cosine, evenly, frames_of, newlines_of
from compress.base import Selection, Selector, View

GROUP = 4  # frames per group; the first one stays whole


@dataclass
class DyCoke(Selector):
    """Keep every fourth frame whole, and of the others the tokens that differ most from an earlier frame.

    "DyCoke: Dynamic Compression of Tokens for Fast Video Large Language Models" (Tao et al., CVPR 2025), its
    first stage, temporal merging, which prunes tokens. Acts at the decoder's input; positions are contiguous.
    In each group of four frames, the second and fourth are compared with the frame before them, the third
    with the first, place by place; they keep their least similar tokens, in order of rising similarity. In
    the last group the third frame stays whole.

    The second stage is left out. When the attention of a new token to the video has changed since the token
    before it, that stage lets the later layers read only a fifth of the video's keys in this decoding step.
    It does not shorten the KV cache, so no budget counts it. It would also make a decoding step depend on the
    step before it. Without it, a step depends on the prefill and the cache alone, so that a cache can be
    copied, cropped to text, or reordered (beams), as under any method.

    Departures: the frames that do not stay whole share the rest of the budget as equally as possible. The
    code drops the last of an odd number of frames (`last=lost`), here it stays whole; the code fails for 4
    frames or fewer. If the whole frames alone exceed the budget, every 8th, 16th, ... frame stays whole
    instead, and frame n is compared with frame n - s, where s is the largest power of two that divides n
    (ours); a budget below one frame is spread evenly over the first frame. All newlines stay, up to half of
    the budget.
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
        """Return indices [keep] into F * n, in output order, for frames [F, n, C]; `keep` is at least n."""
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
        """Return the frame that each of `count` frames is compared with; None if it stays whole.

        With `last=lost` the last of an odd number of frames is not listed.
        """
        found: list[int | None] = []
        for frame in range(count):
            step = frame & -frame  # the largest power of two that divides it
            official = step == 1 or (step == 2 and frame < count - 2)
            pruned = official if group == GROUP else frame % group > 0
            found.append(frame - step if pruned else None)
        return found[: count // 2 * 2] if self.last == "lost" else found
