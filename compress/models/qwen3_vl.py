from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from compress.models.qwen2_5_vl import Qwen25VL


class Qwen3VL(Qwen25VL):
    """Qwen3-VL, with experts too: the tower adds to visual tokens behind first decoder layers (DeepStack).

    What it adds travels with its token: dropped tokens take theirs along, merged ones have the mean.
    """

    processor_parts = ("Qwen3VLProcessor", "Qwen2VLImageProcessorPil")
    residuals = ("visual_pos_masks", "deepstack_visual_embeds")

    def added(self, features: Any) -> Sequence[Tensor]:
        return [torch.cat(list(images)) for images in features.deepstack_features]
