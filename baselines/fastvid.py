from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from baselines.peaks import peaks
from baselines.videos import Counts, cosine, evenly, frames_of, merged_into, newlines_of
from compress.base import Selection, Selector, View, top_k

NEIGHBOURS = 4  # nearest neighbours, the token included, that define its density


class Shares(NamedTuple):
    salient: list[int]  # tokens of each frame that stay unchanged
    centres: list[int]  # tokens of each frame that others are merged into
    alone: int  # centres of a segment of one frame


@dataclass
class FastVID(Selector):
    """Keep the salient tokens of every frame and merge the others within segments of similar frames.

    "FastVID: Dynamic Density Pruning for Fast Video Large Language Models" (Shen et al., NeurIPS 2025), the
    version for LLaVA-OneVision. Reads the tower's pooling head: its feature of each frame, and its attention
    to the tokens. Acts at the decoder's input; positions stay original. A segment ends between two frames
    with a similarity below `threshold`, and at the `segments` - 1 least similar pairs. Salient tokens, those
    with the most attention, get 1 - `context` of a frame's share of the budget. Every `step`-th frame of a
    segment, from its last one backwards, gets an equal part of the rest as cluster centres, found by density
    peaks. Each centre is merged with the tokens of the whole segment that are most similar to it, with a
    weight of at least `weight` for itself.

    `signal=keys` is for towers without a pooling head, as in the version for Qwen2.5-VL: the feature of a
    frame is the mean of its embeddings, and attention is that of its mean query in the tower's last layer.
    The thresholds and shares of that version are not used.

    A frame of a longer segment that has as many centres as a segment of one frame is merged like one, as in
    the code.

    Departures: the code's counts lose tokens to rounding, here the largest share per frame that fits is
    taken, and the remaining tokens go to further salient tokens, one per frame and evenly in time. If a frame
    has fewer tokens than its share of centres, the code fails; here all of them become centres. The noise
    that the code adds to densities is off. All newlines stay, up to half of the budget.
    """

    segments: int = 8
    threshold: float = 0.9
    context: float = 0.4
    step: int = 4
    weight: float = 0.6
    signal: Literal["head", "keys"] = "head"
    layer: int = -1
    video = True

    def __post_init__(self) -> None:
        if self.segments < 1 or self.step < 1:
            raise ValueError(f"segments={self.segments}, step={self.step}: choose 1 or more of each")
        if not 0 <= self.context <= 1 or not 0 <= self.weight <= 1:
            raise ValueError(f"context={self.context}, weight={self.weight}: choose shares from 0 to 1")
        if self.signal == "keys":
            self.cls = "received"  # these tower signals exist only without CLS

    @property
    def tower_layers(self) -> tuple[int, ...]:
        return (self.layer,) if self.signal == "keys" else ()

    def select(self, view: View, keep: int) -> Selection:
        rows, newlines = frames_of(view, "fastvid"), newlines_of(view, keep)
        frames = view.hidden[rows]
        features, attention = self.signals(view, rows)
        lengths = self.lengths(features)
        budget = self.solved(lengths, rows.shape[1], keep - len(newlines))
        merged = self.merged(frames, attention, lengths, budget, self.weight)
        return merged_into(view, rows, newlines, *merged)

    def signals(self, view: View, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return features [F, G] of the frames, and attention [F, n] to their tokens."""
        if self.signal == "head":
            try:
                features, attention = view.probe()
            except ValueError as problem:
                raise ValueError(
                    "fastvid reads the pooling head of the tower, which this model does not have: choose "
                    "signal=keys, for towers without CLS, or another video method"
                ) from problem
            return features, attention[rows]
        keys, queries = view.keys(self.layer)[rows].float(), view.queries(self.layer)[rows].float()
        scores = torch.einsum("fhd,fnhd->fhn", queries.mean(1), keys) / keys.shape[-1] ** 0.5
        return view.hidden[rows].float().mean(1), scores.softmax(-1).mean(1)

    def lengths(self, features: Tensor) -> list[int]:
        """Return the number of frames of each segment, from features [F, G] of the frames."""
        alike = cosine(features[:-1], features[1:])
        cut = alike < self.threshold
        cut[alike.sort(stable=True).indices[: self.segments - 1]] = True
        ends = [*(cut.nonzero()[:, 0] + 1).tolist(), len(features)]
        return [end - start for start, end in zip([0, *ends], ends, strict=False)]

    def budget(self, lengths: Counts, places: int, share: int) -> Shares:
        """Return the token counts in segments of `lengths` if frames keep `share` of `places` tokens."""
        alone = int(share * self.context)
        salient = share - alone
        centres = []
        for length in lengths:
            anchors = range(length - 1, -1, -self.step)
            each = min(alone * length // len(anchors), places - salient)
            centres += [each if frame in anchors else 0 for frame in range(length)]
        return Shares([salient] * len(centres), centres, alone)

    def solved(self, lengths: Counts, places: int, keep: int) -> Shares:
        """Return the `budget` of the largest share that fits into `keep`; the rest becomes salient tokens."""
        fits = [self.budget(lengths, places, share) for share in range(places + 1)]
        best = [fit for fit in fits if sum(fit.salient) + sum(fit.centres) <= keep][-1]
        room = [places - sum(each) for each in zip(best.salient, best.centres, strict=True)]
        more = evenly(room, keep - sum(best.salient) - sum(best.centres))
        return best._replace(salient=[each + one for each, one in zip(best.salient, more, strict=True)])

    @staticmethod
    def merged(
        frames: Tensor, attention: Tensor, lengths: Counts, budget: Shares, weight: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Merge the tokens of frames [F, n, C] with attention [F, n] in segments of `lengths`.

        Return ascending indices [K] into F * n, values [K, C], and the output [F * n] that each token was
        merged into, -1 = none. A centre contributes to its value with `weight` or more.
        """
        places = frames.shape[1]
        flat = frames.reshape(-1, frames.shape[-1])
        stays = torch.zeros_like(attention, dtype=torch.bool)
        for frame, count in enumerate(budget.salient):
            stays[frame, top_k(attention[frame], count)] = True
        values, into = flat.float(), torch.full_like(flat[:, 0], -1, dtype=torch.long)
        kept = [stays.flatten().nonzero()[:, 0]]
        into[kept[0]] = kept[0]
        ends = list(accumulate(lengths))
        starts = [end - length for end, length in zip(ends, lengths, strict=True) for _ in range(length)]
        for frame, count in enumerate(budget.centres):
            if not count:
                continue
            first, last = (frame, frame + 1)
            if count != budget.alone:
                first, last = starts[frame], next(end for end in ends if end > frame)
            own = (~stays[frame]).nonzero()[:, 0] + frame * places
            members = (~stays[first:last]).flatten().nonzero()[:, 0] + first * places
            targets = own[top_k(peaks(flat[own].float(), NEIGHBOURS)[1], count)]
            unit = F.normalize(flat[members].float(), dim=-1)
            nearest = (unit @ F.normalize(flat[targets].float(), dim=-1).T).argmax(1)
            total = torch.zeros_like(flat[targets], dtype=torch.float32)
            total = total.index_add(0, nearest, flat[members].float())
            size = nearest.bincount(minlength=count)[:, None]
            alone = (1 / (size + 1)).clamp(min=weight)
            values[targets] = alone * flat[targets].float() + (1 - alone) * total / size.clamp(min=1)
            into[members] = targets[nearest]
            kept.append(targets)
        index = torch.cat(kept).sort().values
        at = torch.searchsorted(index, into.clamp(min=0)).where(into >= 0, -1)
        return index, values[index].to(frames.dtype), at
