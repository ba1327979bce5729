from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from compress.models import frames
from compress.models.llava import Llava
from compress.models.mllm import Picture
from compress.video import Video


class StackedVideos(Llava):
    """Common base of LLaVAs that read videos: square frames in one tensor, one run of tokens in a prompt."""

    video_arguments = ("pixel_values_videos",)
    video_newline = False  # whether a newline ends a video

    @property
    @abstractmethod
    def frame_grid(self) -> tuple[int, int]:
        """Rows x columns of the visual tokens of one frame."""

    def video_inputs(self, videos: Sequence[Video]) -> dict[str, Tensor]:
        side = self.model.config.vision_config.image_size
        return frames.stacked(self.name, self._processor(), side, videos)

    def video_prompt(self, video: Video) -> str:
        return self.video_token * self._tokens_in(len(video.frames))

    def videos(self, given: Mapping[str, Any]) -> list[Picture]:
        count, length = given["pixel_values_videos"].shape[:2]
        found = Picture.of_video(length, self.frame_grid, self.index_device, newline=self.video_newline)
        return [found] * count

    def video_ids(self, frames: int) -> list[int]:
        return [self.model.config.video_token_id] * self._tokens_in(frames)

    def video_noise(self, ids: Tensor, frames: int, draw: torch.Generator) -> dict[str, Tensor]:
        side = self.model.config.vision_config.image_size
        return {"pixel_values_videos": self._pixels((len(ids), frames, 3, side, side), draw)}

    def _tokens_in(self, frames: int) -> int:
        rows, columns = self.frame_grid
        return frames * rows * columns + self.video_newline
