from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor
from transformers import BatchFeature, ProcessorMixin

from compress.images import check_shape
from compress.models.mllm import MLLM, Picture, with_values


class PixtralProcessor(ProcessorMixin):
    """transformers' processor of this name, whose module cannot be imported without torchvision."""

    def __init__(
        self, image_processor: Any, tokenizer: Any, patch_size: int = 16, spatial_merge_size: int = 1,
        chat_template: str | None = None, image_token: str = "[IMG]",
        image_break_token: str = "[IMG_BREAK]", image_end_token: str = "[IMG_END]",
    ):  # fmt: skip
        super().__init__(image_processor, tokenizer, chat_template=chat_template)
        self.patch_size, self.spatial_merge_size = patch_size, spatial_merge_size
        self.image_token = image_token
        self.image_break_token, self.image_end_token = image_break_token, image_end_token

    @property
    def unit(self) -> int:
        """Side of a visual token in pixels."""
        return self.patch_size * self.spatial_merge_size

    def __call__(
        self, images: Sequence[Image] | None = None, text: Sequence[str] = (), **options: Any
    ) -> BatchFeature:
        """Ids [B, S] and pixels; an image has a run of its token for every row, with breaks between the runs.

        ValueError unless the prompts name every image once.
        """
        pixels: dict[str, Any] = {}
        if images:
            sides = {"height": self.unit, "width": self.unit}
            pixels = dict(self.image_processor(list(images), patch_size=sides, return_tensors="pt"))
            pixels["image_sizes"] = torch.as_tensor(pixels["image_sizes"])
        named, count = sum(prompt.count(self.image_token) for prompt in text), len(images or ())
        if named != count:
            raise ValueError(f"the prompts name {named} images, and {count} are given: give every image once")
        shapes = iter((pixels["image_sizes"] // self.unit).tolist() if images else ())
        made = [self._filled(prompt, shapes) for prompt in text]
        return BatchFeature({**self.tokenizer(made, **options), **pixels})

    def _filled(self, prompt: str, shapes: Any) -> str:
        first, *rest = prompt.split(self.image_token)
        parts = [first]
        for after in rest:
            rows, columns = next(shapes)
            row = self.image_token * columns
            parts += [self.image_break_token.join([row] * rows), self.image_end_token, after]
        return "".join(parts)


class Mistral3(MLLM):
    """Mistral Small 3.1 and Pixtral: images of any size, a run of tokens for every row of an image.

    Every row ends with a break or end token, which is kept. All rows of an image share one budget. Mistral
    Small merges 2 x 2 patches into a token; Pixtral, a LLaVA with this tower, does not. The tower has no CLS
    token.
    """

    processor_parts = (PixtralProcessor, "PixtralImageProcessorPil")
    image_arguments = ("pixel_values", "image_sizes")
    free_size = True

    def fitted(self, processor: Any) -> Any:
        patch, merged = self.model.config.vision_config.patch_size, self.merged
        return with_values(processor, patch_size=patch, spatial_merge_size=merged)

    @property
    def merged(self) -> int:
        """Side of a visual token in patches."""
        return int(getattr(self.model.config, "spatial_merge_size", 1))

    @property
    def unit(self) -> int:
        """Side of a visual token in pixels."""
        return int(self.model.config.vision_config.patch_size) * self.merged

    @property
    def tower_layers(self) -> Any:
        return self.tower.transformer.layers

    @property
    def image_side(self) -> int:
        if self.processor is not None:
            return int(self.processor.image_processor.size["longest_edge"])
        return int(self.model.config.vision_config.image_size)

    @property
    def grid(self) -> tuple[int, int]:
        """The largest square, for budgets; each image has its own grid."""
        side = -(-self.image_side // self.unit)
        return side, side

    def _tokens_of(self, image: Image) -> int:
        check_shape(image.size)
        shrink = max(1.0, max(image.size) / self.image_side)
        columns, rows = (-(-int(side / shrink) // self.unit) for side in image.size)
        return rows * columns

    def tower_pixels(self, args: tuple, kwargs: Mapping[str, Any]) -> Sequence[Tensor]:
        sizes = torch.as_tensor(kwargs["image_sizes"]).tolist()
        tiles = zip(super().tower_pixels(args, kwargs), sizes, strict=True)
        return [pixels[:, :height, :width] for pixels, (height, width) in tiles]  # the rest pads the batch

    def pictures(self, given: Mapping[str, Any]) -> list[Picture]:
        if given.get("image_sizes") is None:
            raise ValueError("give image_sizes, as the processor returns them, with the pixel_values")
        pictures = []
        for height, width in torch.as_tensor(given["image_sizes"]).tolist():
            rows, columns = height // self.unit, width // self.unit
            pictures.append(Picture.of_grid((rows, columns), self.index_device, (columns,) * rows))
        return pictures

    def noise(self, ids: Tensor, draw: torch.Generator) -> dict[str, Tensor]:
        side = self.grid[0] * self.unit
        sizes = torch.full((len(ids), 2), side, device=ids.device)
        return {"pixel_values": self._pixels((len(ids), 3, side, side), draw), "image_sizes": sizes}
