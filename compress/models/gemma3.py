from __future__ import annotations

from typing import Any

from torch import Tensor

from compress.models.mllm import MLLM, Picture, squares, with_values


class Gemma3(MLLM):
    """Gemma 3: a SigLIP tower whose patches are pooled to 256 tokens; image tokens attend both ways.

    Most decoder layers have a sliding window. Kept tokens attend as they would with the others masked.
    """

    nested = True
    special_masks = True
    receives = True

    def fitted(self, processor: Any) -> Any:
        said = processor.tokenizer
        tokens = said.boi_token + said.image_token * self.tile_tokens + said.eoi_token
        return with_values(
            processor, image_seq_length=self.tile_tokens, full_image_sequence=f"\n\n{tokens}\n\n"
        )

    @property
    def tower_layers(self) -> Any:
        return self.tower.encoder.layers

    @property
    def grid(self) -> tuple[int, int]:
        side = round(self.model.config.mm_tokens_per_image**0.5)
        return side, side

    @property
    def image_side(self) -> int:
        return int(self.model.config.vision_config.image_size)

    def tower_groups(self, picture: Picture) -> Tensor:
        vision = self.model.config.vision_config
        pooled = vision.image_size // vision.patch_size // self.grid[0]
        return squares(self.grid, pooled, self.index_device)

    def rotary(self, hidden: Tensor, ids: Tensor, layer: int) -> Any:
        return self.decoder.rotary_emb(hidden, ids, self.decoder.config.layer_types[layer])
