from __future__ import annotations

from compress.models.idefics3 import Idefics3


class SmolVLM(Idefics3):
    """SmolVLM: Idefics3's parts, prompts and pixels, read by its processor: its own one wants videos."""

    processor_parts = ("Idefics3Processor", "Idefics3ImageProcessorPil")
