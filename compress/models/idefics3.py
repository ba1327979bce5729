from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor

from compress.images import check_shape
from compress.models.internvl import InternVL, check_tiles
from compress.models.mllm import Picture, runs_of, squares, with_values


class Idefics3(InternVL):
    """Idefics3: an image as tiles, each a run of tokens after a position token; the whole image is last.

    All runs of an image share one budget, and the tokens between them are kept. The tower has no CLS token.
    """

    processor_parts: tuple[str | type, str] | None = None
    image_arguments = ("pixel_values", "pixel_attention_mask")

    def fitted(self, processor: Any) -> Any:
        return with_values(processor, image_seq_len=self.tile_tokens)

    @property
    def decoder(self) -> Any:
        return self.model.model.text_model

    @property
    def tower(self) -> Any:
        return self.model.model.vision_model

    @property
    def tower_layers(self) -> Any:
        return self.tower.encoder.layers

    @property
    def projector(self) -> Any:
        return self.model.model.connector

    @property
    def grid(self) -> tuple[int, int]:
        vision = self.model.config.vision_config
        side = vision.image_size // vision.patch_size // self.model.config.scale_factor
        return side, side

    @property
    def image_side(self) -> int:
        return int(self.model.config.vision_config.image_size)

    @property
    def visual_tokens(self) -> int:
        across = 4
        if self.processor is not None:
            pixels = self.processor.image_processor
            across = -(-pixels.size["longest_edge"] // pixels.max_image_size["longest_edge"])
        return self.tile_tokens * (across**2 + (across > 1))

    def _tokens_of(self, image: Image) -> int:
        check_shape(image.size)
        pixels = self._processor().image_processor
        tiles, _, _ = pixels.get_number_of_image_patches(image.height, image.width)
        return int(max(1, tiles) * self.tile_tokens)

    def noise(self, ids: Tensor, draw: torch.Generator) -> dict[str, Tensor]:
        side, tiles = self.image_side, self.visual_tokens // self.tile_tokens
        return {"pixel_values": self._pixels((len(ids), tiles, 3, side, side), draw)}

    def tower_groups(self, picture: Picture) -> Tensor:
        return squares(self.grid, self.model.config.scale_factor, self.index_device)

    def pictures(self, given: Mapping[str, Any]) -> list[Picture]:
        pictures = []
        for ids in given["input_ids"].cpu().numpy():
            runs = runs_of(self.placeholders(ids))
            if any(stop - start != self.tile_tokens for start, stop in runs):
                raise ValueError(
                    f"a tile has {self.tile_tokens} placeholders: give the ids that the processor returns"
                )
            tiles = 0
            for start, _ in runs:  # the token before the last run precedes every whole image
                tiles += 1
                if ids[start - 1] == ids[runs[-1][0] - 1]:
                    pictures.append(self._picture(tiles))
                    tiles = 0
        if (pixels := given.get("pixel_values")) is not None:  # tiles of zeros pad the batch
            check_tiles(pictures, int(pixels.flatten(2).any(2).sum()))
        return pictures

    def _picture(self, tiles: int) -> Picture:
        return replace(super()._picture(tiles), runs=(self.tile_tokens,) * tiles)
