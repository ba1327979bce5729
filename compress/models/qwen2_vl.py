from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from compress.models.qwen2_5_vl import Qwen25VL
from compress.video import Video


class Qwen2VL(Qwen25VL):
    """Qwen2-VL: Qwen2.5-VL with full attention in the tower, and positions without a frame rate."""

    processor_parts = ("Qwen2VLProcessor", "Qwen2VLImageProcessorPil")

    def video_times(self, videos: Sequence[Video]) -> dict[str, Tensor]:
        return {}
