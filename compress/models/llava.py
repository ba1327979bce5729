from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from compress.models.clip import Clip, load_clip
from compress.models.mllm import MLLM, with_values


class Llava(MLLM):
    """LLaVA-1.5: CLIP tower with a CLS token, two-layer projector, Llama decoder, one fixed image size."""

    clip_tower = True
    strategy = "default"  # selects the tower's tokens: all except CLS

    def __init__(self, model: PreTrainedModel, processor: Any = None, name: str = ""):
        super().__init__(model, processor, name)
        config = model.config
        if config.vision_feature_select_strategy != self.strategy or not isinstance(
            config.vision_feature_layer, int
        ):
            raise ValueError(
                f"{self.name} reads tower layers {config.vision_feature_layer} with strategy "
                f"{config.vision_feature_select_strategy!r}: supported are one layer and {self.strategy!r}"
            )

    def fitted(self, processor: Any) -> Any:
        config = self.model.config
        return with_values(
            processor,
            patch_size=config.vision_config.patch_size,
            num_additional_image_tokens=1,  # the CLS of a CLIP tower, which "default" removes
            vision_feature_select_strategy=config.vision_feature_select_strategy,
        )

    @property
    def tower_layers(self) -> Any:
        return self.tower.encoder.layers

    @cached_property
    def grid(self) -> tuple[int, int]:
        vision = self.model.config.vision_config
        side = vision.image_size // vision.patch_size
        return side, side

    @property
    def image_side(self) -> int:
        return int(self.model.config.vision_config.image_size)

    def clip(self, source: str = "") -> Clip:
        config = self.model.config
        name = source or getattr(config, "mm_vision_tower", None)
        if not name:
            raise ValueError(
                f"{self.name} has no text tower: its config.json names no CLIP (mm_vision_tower); name the "
                f"one that its tower is of with the method's option, clip=FOLDER or clip=owner/name"
            )
        beside = Path(self.model.name_or_path) / name
        found = load_clip(str(beside if beside.is_dir() else name), self.model.device, self.model.dtype)
        width = config.vision_config.hidden_size
        if found.width != width:
            raise ValueError(
                f"CLIP {name!r} reads features of {found.width} numbers, and {self.name} has {width}: give "
                f"the CLIP that its tower is of with clip=FOLDER or clip=owner/name"
            )
        return found

    def tower_cls(self, output: Any) -> Tensor | None:
        return output.hidden_states[self.model.config.vision_feature_layer][:, 0]
