from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor

from compress.base import Traits
from compress.images import check_shape
from compress.models.mllm import MLLM, Picture, runs_of, squares, with_values

TILES = 12  # of an image, besides a thumbnail, if there is no processor


class InternVL(MLLM):
    """InternVL3 and 3.5: InternViT, 2 x 2 patches per token, an image as up to 12 tiles and a thumbnail.

    The thumbnail comes last, if there are several tiles. The tower has a CLS token, but a visual token
    consists of four of its patches: methods act at the decoder's input and inside the decoder. In the tower
    they can read the attention that tokens receive.
    """

    processor_parts: tuple[str | type, str] | None = ("InternVLProcessor", "GotOcr2ImageProcessorPil")
    receives = True
    free_size = True

    def fitted(self, processor: Any) -> Any:
        return with_values(processor, image_seq_length=self.tile_tokens)

    @property
    def tower_layers(self) -> Any:
        return self.tower.encoder.layer

    @property
    def grid(self) -> tuple[int, int]:
        config = self.model.config
        sizes = zip(config.vision_config.image_size, config.vision_config.patch_size, strict=True)
        rows, columns = (int(side // patch * config.downsample_ratio) for side, patch in sizes)
        return rows, columns

    @property
    def image_side(self) -> int:
        return int(self.model.config.vision_config.image_size[0])

    @property
    def visual_tokens(self) -> int:
        tiles = TILES if self.processor is None else self.processor.image_processor.max_patches
        return self.tile_tokens * (tiles + (tiles > 1))

    def _tokens_of(self, image: Image) -> int:
        check_shape(image.size)
        pixels = self._processor().image_processor
        tiles = pixels.get_number_of_image_patches(image.height, image.width, {"crop_to_patches": True})
        return int(tiles * self.tile_tokens)

    @property
    def traits(self) -> Traits:
        return replace(super().traits, tiles=True)

    def tower_groups(self, picture: Picture) -> Tensor:
        merged = round(1 / self.model.config.downsample_ratio)
        return 1 + squares(self.grid, merged, self.index_device)  # CLS is the first row

    def noise(self, ids: Tensor, draw: torch.Generator) -> dict[str, Tensor]:
        side, tiles = self.image_side, self.visual_tokens // self.tile_tokens
        return {"pixel_values": self._pixels((len(ids) * tiles, 3, side, side), draw)}

    def pictures(self, given: Mapping[str, Any]) -> list[Picture]:
        pictures, pixels = [], given.get("pixel_values")
        for row in self.placeholders(given["input_ids"]).cpu().numpy():
            for start, stop in runs_of(row):
                tiles, rest = divmod(stop - start, self.tile_tokens)
                if rest:
                    raise ValueError(
                        f"an image has {stop - start} placeholders, and a tile {self.tile_tokens}: give the "
                        f"ids that the processor returns"
                    )
                pictures.append(self._picture(tiles))
        if pixels is not None:
            check_tiles(pictures, len(pixels))
        return pictures

    def _picture(self, tiles: int) -> Picture:
        every = torch.arange(tiles * self.tile_tokens, device=self.index_device)
        tile = (every // self.tile_tokens + (tiles > 1)) % tiles  # the last is the whole image, tile 0
        return Picture(self.grid, tiles, tile, every % self.tile_tokens, whole=tiles - 1)


def check_tiles(pictures: Sequence[Picture], shown: int) -> None:
    """ValueError unless the images of the prompts, possibly repeated for beams, have `shown` tiles."""
    count = sum(picture.tiles for picture in pictures)
    if not shown or count % shown:
        raise ValueError(
            f"input_ids have room for {count} tiles, and pixel_values are {shown}: give every image that the "
            f"prompt names, once"
        )
