from __future__ import annotations

from compress.models.qwen2_5_vl import Qwen25VL


class Glm4V(Qwen25VL):
    """GLM-4.1V: Qwen2.5-VL's positions, full attention in the tower, partial rotation in the decoder.

    This adapter reads no videos: their frames have the placeholder of images.
    """

    processor_parts = ("Glm4vProcessor", "Glm4vImageProcessorPil")
    video_arguments = ()

    @property
    def most_pixels(self) -> int:
        """The limit of its processor, which counts an image once per frame of a temporal patch."""
        return super().most_pixels // int(self.model.config.vision_config.temporal_patch_size)


class Glm46V(Glm4V):
    """GLM-4.6V: GLM-4.1V with another processor."""

    processor_parts = ("Glm46VProcessor", "Glm46VImageProcessorPil")
