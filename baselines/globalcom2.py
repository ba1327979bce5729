from __future__ import annotations

from dataclasses import dataclass
from math import isqrt
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from baselines.crops import best_of_each, crop_of_cell, share_out, stitched
from compress.base import VISION, Selection, Selector, Traits, View


@dataclass
class GlobalCom2(Selector):
    """Use the thumbnail to decide how many tokens each crop keeps, and which ones.

    "Global Compression Commander: Plug-and-Play Inference Acceleration for High-Resolution Large
    Vision-Language Models" (Liu et al., AAAI 2026, arXiv 2501.05179). Reads the scores of CLS for the patches
    in the tower's last layer, mean over heads; prunes between tower and projector; positions are contiguous.
    The thumbnail keeps its best patches. The budget of a crop grows with the thumbnail's scores in the area
    of the crop. Within a crop, the sum of its own scores and the enlarged scores of the thumbnail decides. An
    image without crops is treated as a thumbnail.

    Departures: the paper ranks by attention, the code by scores before the softmax (`signal`); the code
    orders the thumbnail's tokens by falling score (`order`); the code's counts only approximate the budget,
    here the crops share it exactly; the code adds all newlines of the crops, here none are kept.
    """

    temperature: float = 10.0
    signal: Literal["logits", "attention"] = "logits"
    order: Literal["score", "raster"] = "score"
    layer: int = -1
    depth = VISION
    positions = "compact"

    @property
    def tower_layers(self) -> tuple[int, ...]:
        return (self.layer,)

    def choices(self, model: Traits) -> tuple[str, ...]:
        return () if model.tiles else ("an image without crops is a thumbnail alone",)

    def select(self, view: View, keep: int) -> Selection:
        if view.frame is not None:
            raise ValueError(
                "globalcom2 lets the thumbnail of an image in tiles say what its crops keep, and a video has "
                "none: choose another method, such as vidcom2"
            )
        view.need_cls("globalcom2")
        read = (
            view.cls(self.layer)
            if self.signal == "attention"
            else view.scores(self.layer)[:, -len(view.hidden) :]
        )
        scores = read.float().mean(0)
        alone = view.crop is None or not view.crop.any()  # the crops of a very thin image may have no tokens
        index = self.ranked(scores, keep) if alone else self.command(view, scores, keep)
        if self.order == "raster":
            return Selection(index.sort().values)
        return Selection(index, reordered=True)

    def command(self, view: View, scores: Tensor, keep: int) -> Tensor:
        """Return rows [keep] of a tiled image: the thumbnail's by score, then the crops' in raster order."""
        assert view.crop is not None
        local = (view.crop > 0).nonzero()[:, 0]
        crop = view.crop[local] - 1
        whole = (view.crop == 0).nonzero()[:, 0]
        ratio = keep / len(scores)
        grid, shape = stitched(view)
        scales = self.scales(scores[whole], shape, ratio)
        guided = self.guided(scores[local], self.enlarged(scores[whole], grid), crop)
        size = crop.bincount(minlength=len(scales))
        first = int(len(whole) * ratio)
        kept = best_of_each(guided, crop, share_out(size * scales, size, keep - first))
        return torch.cat([whole[self.ranked(scores[whole], first)], local[kept]])

    @staticmethod
    def ranked(scores: Tensor, keep: int) -> Tensor:
        """Return the indices of the `keep` best `scores` [N], best first."""
        return scores.sort(descending=True, stable=True).indices[:keep]

    def scales(self, thumbnail: Tensor, shape: tuple[int, int], ratio: float) -> Tensor:
        """Return the share [P] of tokens that each crop keeps, `ratio` on average before clipping at 1.

        `shape` are rows x columns of crops, thumbnail [n] the thumbnail's scores.
        """
        region = crop_of_cell(isqrt(len(thumbnail)), shape).to(thumbnail.device)
        worth = thumbnail.new_zeros(shape[0] * shape[1]).index_add(0, region, thumbnail) / self.temperature
        weight = worth.softmax(0)
        return (ratio * (1 + weight - weight.mean())).clamp(max=1)

    @staticmethod
    def enlarged(thumbnail: Tensor, grid: tuple[int, int]) -> Tensor:
        """Interpolate the thumbnail's scores [n] bilinearly to the crops' grid, flattened."""
        side = isqrt(len(thumbnail))
        return F.interpolate(thumbnail.view(1, 1, side, side), grid, mode="bilinear").flatten()

    @staticmethod
    def guided(local: Tensor, thumbnail: Tensor, crop: Tensor) -> Tensor:
        """Return scores [M] of the crops' tokens: own plus thumbnail's, both of unit norm in every crop."""

        def unit(scores: Tensor) -> Tensor:
            squares = scores.new_zeros(int(crop.max()) + 1).index_add(0, crop, scores**2)
            return scores / squares.sqrt()[crop]

        return unit(local) + unit(thumbnail)
