from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor
from transformers import PreTrainedModel
from transformers.models.gemma4.image_processing_pil_gemma4 import get_aspect_ratio_preserving_size

from compress.images import check_shape
from compress.models.gemma3 import Gemma3
from compress.models.mllm import Picture, with_values


class Gemma4(Gemma3):
    """Gemma 4, the dense models and the one with experts: images of any shape, k x k patches per token.

    As in Gemma 3, image tokens attend both ways and most decoder layers have a sliding window.
    """

    processor_parts = ("Gemma4Processor", "Gemma4ImageProcessorPil")
    image_arguments = ("pixel_values", "image_position_ids")
    receives = False
    free_size = True

    def __init__(self, model: PreTrainedModel, processor: Any = None, name: str = ""):
        super().__init__(model, processor, name)
        text = self.decoder.config
        if text.hidden_size_per_layer_input or text.num_kv_shared_layers:
            raise ValueError(
                f"{self.name} is a small Gemma 4, whose layers have inputs of their own and share keys: "
                f"supported are those without (31B and 26B-A4B)"
            )

    def fitted(self, processor: Any) -> Any:
        vision = self.model.config.vision_config
        sizes = {"patch_size": vision.patch_size, "pooling_kernel_size": vision.pooling_kernel_size}
        return with_values(processor, image_processor=with_values(processor.image_processor, **sizes))

    @property
    def projector(self) -> Any:
        return self.model.model.embed_vision

    @property
    def visual_tokens(self) -> int:
        return 280 if self.processor is None else int(self.processor.image_processor.max_soft_tokens)

    @property
    def grid(self) -> tuple[int, int]:
        """The largest square, for budgets; each image has its own grid."""
        side = int(self.visual_tokens**0.5)
        return side, side

    @property
    def unit(self) -> int:
        """Side of a visual token in pixels."""
        vision = self.model.config.vision_config
        return int(vision.patch_size * vision.pooling_kernel_size)

    @property
    def image_side(self) -> int:
        return self.grid[0] * self.unit

    def _tokens_of(self, image: Image) -> int:
        check_shape(image.size)
        vision = self.model.config.vision_config
        pooled = vision.pooling_kernel_size
        height, width = get_aspect_ratio_preserving_size(
            image.height, image.width, vision.patch_size, self.visual_tokens * pooled**2, pooled
        )
        return int(height // self.unit * (width // self.unit))

    def pictures(self, given: Mapping[str, Any]) -> list[Picture]:
        places = given.get("image_position_ids")
        if places is None:
            raise ValueError("give image_position_ids, as the processor returns them, with the pixel_values")
        pooled = self.model.config.vision_config.pooling_kernel_size
        pictures = []
        for columns, rows in (places.amax(1) + 1).tolist():  # padding is -1
            grid = rows // pooled, columns // pooled
            pictures.append(Picture.of_grid(grid, self.index_device))
        return pictures

    def noise(self, ids: Tensor, draw: torch.Generator) -> dict[str, Tensor]:
        vision = self.model.config.vision_config
        rows, columns = (side * vision.pooling_kernel_size for side in self.grid)
        most = self.visual_tokens * vision.pooling_kernel_size**2
        place = torch.full((most, 2), -1, device=ids.device)
        each = torch.arange(rows * columns, device=ids.device)
        place[: rows * columns] = torch.stack([each % columns, each // columns], 1)
        return {
            "pixel_values": self._pixels((len(ids), most, 3 * vision.patch_size**2), draw),
            "image_position_ids": place.expand(len(ids), -1, -1),
            "mm_token_type_ids": self.placeholders(ids).int(),
        }
