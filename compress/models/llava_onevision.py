from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from PIL.Image import Image
from torch import Tensor
from transformers import BatchFeature
from transformers.models.llava_next.modeling_llava_next import (
    get_anyres_image_grid_shape,
    image_size_to_num_patches,
)

from compress.base import Traits
from compress.images import check_shape
from compress.models.mllm import Picture, with_values
from compress.models.stacked import StackedVideos


class LlavaOnevision(StackedVideos):
    """LLaVA-OneVision: a SigLIP tower without CLS, a thumbnail and crops (anyres), Qwen2 decoder.

    As in LLaVA-NeXT a newline ends every row of the stitched crops. If these have too many tokens the model
    shrinks them, and a token is then a mean of patches. If a prompt has several images, each has one tile.
    Each frame of a video has one tile, halved by interpolation, and one newline ends the video.
    """

    strategy = "full"
    processor_parts = ("LlavaOnevisionProcessor", "LlavaOnevisionImageProcessorPil")
    image_arguments = ("pixel_values", "image_sizes", "batch_num_images")
    video_newline = True
    nested = True
    clip_tower = False
    receives = True
    free_size = True

    def fitted(self, processor: Any) -> Any:
        config = self.model.config
        pixels = with_values(processor.image_processor, image_grid_pinpoints=config.image_grid_pinpoints)
        return with_values(
            processor,
            image_processor=pixels,
            num_image_tokens=self.tile_tokens,
            vision_feature_select_strategy=config.vision_feature_select_strategy,
            vision_aspect_ratio=config.vision_aspect_ratio,
        )

    def tower_cls(self, output: Any) -> Tensor | None:
        return None

    @property
    def image_side(self) -> int:
        return max(min(height, width) for height, width in self.model.config.image_grid_pinpoints)

    @cached_property
    def visual_tokens(self) -> int:
        return max(len(self._picture(*size)) for size in self.model.config.image_grid_pinpoints)

    def _tokens_of(self, image: Image) -> int:
        check_shape(image.size)
        return len(self._picture(image.height, image.width))

    @property
    def traits(self) -> Traits:
        return replace(super().traits, tiles=True, newlines=True)

    def noise(self, ids: Tensor, draw: torch.Generator) -> dict[str, Tensor]:
        config = self.model.config
        side = config.vision_config.image_size
        height, width = max(config.image_grid_pinpoints, key=lambda size: len(self._picture(*size)))
        tiles = 1 + height * width // side**2
        sizes = torch.tensor([[height, width]] * len(ids), device=ids.device)
        return {"pixel_values": self._pixels((len(ids), tiles, 3, side, side), draw), "image_sizes": sizes}

    def pictures(self, given: Mapping[str, Any]) -> list[Picture]:
        if given.get("image_sizes") is None:
            raise ValueError("give image_sizes, as the processor returns them, with the pixel_values")
        sizes = torch.as_tensor(given["image_sizes"]).tolist()
        counts = given.get("batch_num_images")
        together = [1] * len(sizes) if counts is None else torch.as_tensor(counts).tolist()
        if sum(together) != len(sizes):
            raise ValueError(
                f"batch_num_images counts {sum(together)} images and image_sizes {len(sizes)}: give both "
                f"as the processor returns them"
            )
        alone = [count == 1 for count in together for _ in range(count)]
        pictures = []
        for (height, width), cropped in zip(sizes, alone, strict=True):
            check_shape((width, height))
            pictures.append(self._picture(height, width) if cropped else self._one_tile)
        return pictures

    @property
    def frame_grid(self) -> tuple[int, int]:
        rows, columns = (math.ceil(side / 2) for side in self.grid)
        return rows, columns

    def video_features(self, inputs: BatchFeature) -> Any:
        made = super().video_features(inputs)
        if made.pooler_output.shape[1] < len(self.videos(inputs)[0]):  # some releases add it later
            newline = self.model.model.image_newline.expand(len(made.pooler_output), 1, -1)
            made.pooler_output = torch.cat([made.pooler_output, newline.to(made.pooler_output)], 1)
        return made

    def of_tokens(self, picture: Picture, signal: Tensor) -> Tensor:
        if not picture.video:
            return super().of_tokens(picture, signal)
        tiles = signal.float().reshape(-1, 1, *self.grid)
        halved = F.interpolate(tiles, size=list(self.frame_grid), mode="bilinear")
        return halved.view(*signal.shape[:-1], -1).to(signal)

    @property
    def pools(self) -> bool:
        return bool(getattr(self.tower, "head", None))

    def pooled(self, last: Tensor) -> tuple[Tensor, Tensor]:
        head = self.tower.head
        query = head.probe
        attended, weights = head.attention(query, last[None], last[None])
        return (attended + head.mlp(head.layernorm(attended)))[0, 0], weights[0, 0]

    @cached_property
    def _one_tile(self) -> Picture:
        patch = torch.arange(self.tile_tokens, device=self.index_device)
        newline = patch.new_full((1,), -1)
        return Picture(
            self.grid, 1, torch.cat([torch.zeros_like(patch), newline]), torch.cat([patch, newline])
        )

    def _picture(self, height: int, width: int) -> Picture:
        config, (rows, columns) = self.model.config, self.grid
        size, side = torch.tensor([height, width]), config.vision_config.image_size
        tiles = image_size_to_num_patches(size, config.image_grid_pinpoints, side)
        if tiles == 1:
            return self._one_tile
        _, across = get_anyres_image_grid_shape((height, width), config.image_grid_pinpoints, side)
        row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
        own = torch.stack([row, column], -1).flatten(0, 1).double()  # [P, 2]
        crop = torch.arange(tiles - 1)
        shift = torch.stack([crop // across * rows, crop % across * columns], -1).double()
        # The model's own packing, applied to positions instead of features, gives the source of every token.
        places = torch.cat([own[None], own + shift[:, None]])
        newline = torch.full((2,), -1, dtype=torch.float64)
        packed, _ = self.model.model.pack_image_features(
            [places], [size], image_newline=newline, vision_aspect_ratio=config.vision_aspect_ratio
        )
        y, x = packed[0].round().long().to(self.index_device).unbind(-1)
        tile = 1 + y // rows * across + x // columns
        patch = y % rows * columns + x % columns
        whole = torch.arange(len(y), device=y.device) < self.tile_tokens  # the thumbnail comes first
        tile = torch.where(y < 0, -1, torch.where(whole, 0, tile))
        return Picture(self.grid, tiles, tile, torch.where(y < 0, -1, patch))
