from __future__ import annotations

from compress.models.idefics3 import Idefics3


class SmolVLM(Idefics3):
    """SmolVLM: Idefics3's modules and prompts, with its processor: SmolVLM's own needs videos."""

    processor_parts = ("Idefics3Processor", "Idefics3ImageProcessorPil")
