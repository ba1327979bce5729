from __future__ import annotations

from compress.models.qwen2_5_vl import Qwen25VL


class Qwen35(Qwen25VL):
    """Qwen3.5: Qwen3-VL's tower without DeepStack, and recurrent layers among those of the decoder.

    Tokens can go before the decoder only: what a recurrent layer has read stays in its state.
    """

    processor_parts = ("Qwen3VLProcessor", "Qwen2VLImageProcessorPil")
