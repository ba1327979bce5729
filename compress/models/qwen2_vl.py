from __future__ import annotations

from compress.models.qwen2_5_vl import Qwen25VL


class Qwen2VL(Qwen25VL):
    """Qwen2-VL: Qwen2.5-VL with full attention in the tower."""

    processor_parts = ("Qwen2VLProcessor", "Qwen2VLImageProcessorPil")
