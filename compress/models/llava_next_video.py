from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from compress.models import frames
from compress.models.llava_next import LlavaNext
from compress.models.mllm import Picture, squares
from compress.video import Video


class LlavaNextVideo(LlavaNext):
    """LLaVA-NeXT-Video: LLaVA-NeXT, and videos of which 2 x 2 patches of a frame are pooled to a token.

    They are pooled before the projector, so methods that work in the tower have no place here: methods act at
    the decoder's input and inside the decoder. Of the tower they can read the attention that tokens receive.
    """

    processor_parts = ("LlavaNextVideoProcessor", "LlavaNextImageProcessorPil")
    video_arguments = ("pixel_values_videos",)
    clip_tower = False
    receives = True
    free_size = True

    def tower_groups(self, picture: Picture) -> Tensor:
        if picture.video:
            return 1 + squares(picture.grid, self._stride, self.index_device)  # CLS is the first row
        return 1 + super().tower_groups(picture)

    @property
    def _stride(self) -> int:
        return int(self.model.config.spatial_pool_stride)

    @property
    def frame_grid(self) -> tuple[int, int]:
        """Rows x columns of the visual tokens of a video's frame."""
        rows, columns = (side // self._stride for side in self.grid)
        return rows, columns

    def video_inputs(self, videos: Sequence[Video]) -> dict[str, Tensor]:
        side = self.model.config.vision_config.image_size
        return frames.stacked(self.name, self._processor(), side, videos)

    def video_prompt(self, video: Video) -> str:
        rows, columns = self.frame_grid
        return self.video_token * (len(video.frames) * rows * columns)

    def video_ids(self, frames: int) -> list[int]:
        rows, columns = self.frame_grid
        return [self.model.config.video_token_id] * (frames * rows * columns)

    def video_noise(self, ids: Tensor, frames: int, draw: torch.Generator) -> dict[str, Tensor]:
        side = self.model.config.vision_config.image_size
        return {"pixel_values_videos": self._pixels((len(ids), frames, 3, side, side), draw)}

    def videos(self, given: Mapping[str, Any]) -> list[Picture]:
        count, length = given["pixel_values_videos"].shape[:2]
        return [Picture.of_video(length, self.frame_grid, self.index_device)] * count
