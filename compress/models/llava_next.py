from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from PIL import Image, ImageOps
from torch import Tensor
from transformers import BatchFeature
from transformers.models.llava_next.modeling_llava_next import image_size_to_num_patches

from compress.base import Traits
from compress.images import before_padding, check_shape
from compress.models.llava import Llava
from compress.models.mllm import Picture, with_values

SIZES = 256  # number of image sizes whose `Picture` is cached


class LlavaNext(Llava):
    """LLaVA-NeXT: LLaVA-1.5's modules, the image as a thumbnail and a grid of crops (anyres).

    The decoder reads the thumbnail's tokens, then the stitched crops row by row, without padding and with a
    newline token after every row; their number depends on the image's shape. Inside the decoder newlines are
    ordinary tokens. Methods that act at the tower never see them, and they are dropped.

    After `fix_grid` every image is padded to a square, cut into 2 x 2 crops, and has no newlines: always five
    times a tile's tokens, the 2880 of the literature. `encode` does the padding, not the stock processor.
    """

    image_arguments = ("pixel_values", "image_sizes")

    def fitted(self, processor: Any) -> Any:
        pinpoints = self.model.config.image_grid_pinpoints
        pixels = with_values(processor.image_processor, image_grid_pinpoints=pinpoints)
        return with_values(super().fitted(processor), image_processor=pixels)

    @property
    def fixed(self) -> bool:
        return self.model.model.image_newline is None

    @property
    def one_size(self) -> bool:
        return self.fixed

    def fix_grid(self) -> None:
        """Permanently change model and processor to five tiles for every image, without newlines."""
        side = self.model.config.vision_config.image_size
        self.model.model.image_newline = None
        self.model.config.image_grid_pinpoints = [[2 * side, 2 * side]]
        if self.processor is not None:
            self.processor.image_processor.image_grid_pinpoints = [[2 * side, 2 * side]]

    @property
    def image_side(self) -> int:
        return max(min(height, width) for height, width in self.model.config.image_grid_pinpoints)

    @property
    def visual_tokens(self) -> int:
        side = self.model.config.vision_config.image_size
        rows, columns = self.grid
        height, width = self._largest()
        return int(self.tile_tokens + (height // side * rows) * (width // side * columns + (not self.fixed)))

    def _largest(self) -> tuple[int, int]:
        """Height and width, in pixels, of the image with the most tokens."""
        side = self.model.config.vision_config.image_size
        rows, columns = self.grid
        height, width = max(
            self.model.config.image_grid_pinpoints,
            key=lambda size: size[0] // side * rows * (size[1] // side * columns + (not self.fixed)),
        )
        return height, width

    def noise(self, ids: Tensor, draw: torch.Generator) -> dict[str, Tensor]:
        side, (height, width) = self.model.config.vision_config.image_size, self._largest()
        tiles = 1 + height * width // side**2
        sizes = torch.tensor([[height, width]] * len(ids), device=ids.device)
        return {"pixel_values": self._pixels((len(ids), tiles, 3, side, side), draw), "image_sizes": sizes}

    @property
    def traits(self) -> Traits:
        return replace(super().traits, tiles=True, newlines=not self.fixed)

    def pictures(self, given: Mapping[str, Any]) -> list[Picture]:
        if given.get("image_sizes") is None:
            raise ValueError("give image_sizes, as the processor returns them, with the pixel_values")
        sizes = torch.as_tensor(given["image_sizes"]).tolist()
        pictures = []
        for height, width in sizes:
            key = height, width, self.fixed
            if key not in self._known:
                check_shape((width, height))
                self._known[key] = self._picture(height, width)
            pictures.append(self._known[key])
            if len(self._known) > SIZES:
                del self._known[next(iter(self._known))]
        return pictures

    @cached_property
    def _known(self) -> dict[tuple[int, int, bool], Picture]:
        """Cache of the latest pictures by height, width and mode, because image sizes recur."""
        return {}

    def _picture(self, height: int, width: int) -> Picture:
        config, per_tile = self.model.config, self.tile_tokens
        size = torch.tensor([height, width])
        tiles = image_size_to_num_patches(size, config.image_grid_pinpoints, config.vision_config.image_size)
        place = torch.arange(tiles * per_tile, dtype=torch.float64).view(tiles, per_tile, 1)
        newline = None if self.fixed else torch.tensor([-1.0], dtype=torch.float64)
        # The model's own packing, applied to numbers instead of features, gives the source of every token.
        packed, _ = self.model.model.pack_image_features(
            [place], [size], vision_feature_select_strategy="default", image_newline=newline
        )
        source = packed[0][:, 0].long().to(self.index_device)
        tile = torch.where(source < 0, -1, source // per_tile)
        return Picture(self.grid, tiles, tile, torch.where(source < 0, -1, source % per_tile))

    def _encoded(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> BatchFeature:
        if not self.fixed or not images:
            return super()._encoded(images, prompts)
        processor = self._processor()
        bounded = [before_padding(image) for image in images]
        square = [ImageOps.pad(image, (max(image.size), max(image.size))) for image in bounded]
        pixels = processor.image_processor(square, return_tensors="pt")
        token = processor.image_token
        texts = [prompt.replace(token, token * self.visual_tokens) for prompt in prompts]
        return BatchFeature({**processor.tokenizer(texts, padding=True, return_tensors="pt"), **pixels})
