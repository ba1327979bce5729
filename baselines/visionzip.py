from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from baselines.crops import rows_of_each, tile_of
from baselines.videos import evenly
from compress.base import ClsSelector, Selection, Traits, View, top_k


class Zipped(NamedTuple):
    dominant: Tensor  # [D - 1] patches that stay unchanged, ascending
    targets: Tensor  # [C] patches that the rest is merged into, ascending
    merged: Tensor  # [C, width] their new features
    joined: Tensor  # [N] the target that each patch is merged into, itself for a target; -1 = none


@dataclass
class VisionZip(ClsSelector):
    """Keep CLS and the patches it attends to most, and merge the rest into a few by similarity of keys.

    "VisionZip: Longer is Better but Not Necessary in Vision Language Models" (Yang et al., CVPR 2025, arXiv
    2412.04467). Reads CLS attention (summed over heads) and keys (mean over heads) of the tower layer whose
    output the projector reads; acts between tower and projector; positions are contiguous. The decoder gets
    CLS, the dominant patches in order, then the contextual tokens. Of 64 tokens 54 are dominant, CLS
    included, and 10 contextual; other budgets are split in the same proportion, as in the official 108 + 20
    of 128 and 162 + 30 of 192.

    A contextual token is a sum, as in the official code: the target plus the mean of the patches merged into
    it. Its DeepStack residuals, which a decoder adds between layers, are the mean over all of these patches.
    The tiles of an image are compressed separately, with equal budgets; the decoder gets all of the
    thumbnail's tokens, then the crops' dominant patches in raster order, their CLS, and their contextual
    tokens. The frames of a video are also compressed separately; the decoder gets frame after frame. Without
    CLS (`cls=received`) the tokens of an image or video are compressed together and are in raster order.
    """

    contextual: float = 10 / 64  # share of the budget
    layer: int = -2

    def __post_init__(self) -> None:
        if not 0 <= self.contextual < 1:
            raise ValueError(f"contextual={self.contextual}: choose a share of the budget from 0 to below 1")

    @property
    def tower_layers(self) -> tuple[int, ...]:
        return (self.layer,)

    def choices(self, model: Traits) -> tuple[str, ...]:
        return ("tiles are compressed one by one, with equal budgets",) if model.tiles else ()

    def select(self, view: View, keep: int) -> Selection:
        attention, keys = self.attended(view, self.layer).sum(0), view.keys(self.layer).mean(1)
        if self.cls == "received":
            dominant, contextual = self.split(keep)
            zipped = self.zip(attention, keys, view.hidden, dominant + 1, contextual)
            index = torch.cat([zipped.dominant, zipped.targets]).sort()
            tokens = torch.cat([view.hidden[zipped.dominant], zipped.merged])
            into = torch.searchsorted(index.values, zipped.joined).where(zipped.joined >= 0, -1)
            return Selection(index.values, tokens[index.indices], into)
        tiles = len(view.need_cls("visionzip"))
        budgets = [keep // tiles + (tile < keep % tiles) for tile in range(tiles)]
        if view.frame is not None:
            budgets = evenly([keep] * tiles, keep)
        parts = {}
        for tile, rows in enumerate(rows_of_each(tile_of(view), tiles)):
            if not (budget := budgets[tile]):  # with a small budget some tiles get no token
                continue
            zipped = self.zip(attention[rows], keys[rows], view.hidden[rows], *self.split(budget))
            zipped = zipped._replace(dominant=rows[zipped.dominant], targets=rows[zipped.targets])
            parts[tile] = zipped
        return joined(list(parts.values()), view) if view.frame is None else in_time(parts, view)

    def split(self, keep: int) -> tuple[int, int]:
        """Return the numbers of dominant tokens, CLS included, and of contextual tokens."""
        contextual = min(round(keep * self.contextual), keep - 1)
        return keep - contextual, contextual

    @staticmethod
    def zip(attention: Tensor, keys: Tensor, features: Tensor, dominant: int, contextual: int) -> Zipped:
        """Split N patches into `dominant` - 1 kept ones, as CLS is the first, and `contextual` merged ones.

        attention [N], keys [N, d], features [N, C]. Targets are every (N - dominant + 1) // contextual-th
        remaining patch; each other patch is merged into the target with the most similar key.
        """
        kept = top_k(attention, dominant - 1)
        left = torch.ones_like(attention, dtype=torch.bool).index_fill(0, kept, False).nonzero()[:, 0]
        stride = max(1, len(left) // max(1, contextual))
        is_target = torch.zeros_like(left, dtype=torch.bool)
        is_target[: stride * contextual : stride] = True
        targets, others = left[is_target], left[~is_target]
        merged, into = features[targets], torch.full_like(attention, -1, dtype=torch.long)
        into[targets] = targets
        if len(targets) and len(others):
            unit = F.normalize(keys, dim=-1)
            nearest = (unit[others] @ unit[targets].T).argmax(1)
            into[others] = targets[nearest]
            groups = F.one_hot(nearest, len(targets)).to(features)  # [others, C]
            merged = merged + groups.T @ features[others] / groups.sum(0).clamp(min=1)[:, None]
        return Zipped(kept, targets, merged, into)


def joined(parts: list[Zipped], view: View) -> Selection:
    """Build the selection of an image's tiles in the official order; the first part is the thumbnail."""
    assert view.cls_token is not None
    thumbnail, crops = parts[0], parts[1:]
    dominant = torch.cat([thumbnail.dominant[:0], *(part.dominant for part in crops)]).sort().values
    whole = thumbnail.dominant.new_full((1,), -1)
    index = torch.cat(
        [whole, thumbnail.dominant, thumbnail.targets, dominant, whole.expand(len(crops))]
        + [part.targets for part in crops]
    )
    tokens = torch.cat(
        [view.cls_token[:1], view.hidden[thumbnail.dominant], thumbnail.merged, view.hidden[dominant]]
        + [view.cls_token[1 : len(parts)], *(part.merged for part in crops)]
    )
    return Selection(index, tokens)


def in_time(parts: dict[int, Zipped], view: View) -> Selection:
    """Build the selection of a video's frames, in order: CLS, dominant patches and targets of each."""
    assert view.cls_token is not None
    index, tokens = [], []
    for frame, part in parts.items():
        index += [part.dominant.new_full((1,), -1), part.dominant, part.targets]
        tokens += [view.cls_token[frame : frame + 1], view.hidden[part.dominant], part.merged]
    return Selection(torch.cat(index), torch.cat(tokens))
