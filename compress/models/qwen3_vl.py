from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from compress.models import frames
from compress.models.qwen2_5_vl import Qwen25VL
from compress.video import Video


class Qwen3VL(Qwen25VL):
    """Qwen3-VL, also with experts: the tower adds to visual tokens after first decoder layers (DeepStack).

    The added features follow their token: they are dropped with it, and a merged token gets their mean. The
    prompt states the time before every pair of frames of a video; it stays even if the pair loses all its
    tokens.
    """

    processor_parts = ("Qwen3VLProcessor", "Qwen2VLImageProcessorPil")
    residuals: tuple[str, str] | None = ("visual_pos_masks", "deepstack_visual_embeds")
    frames_apart = True

    def frame_size(self, video: Video) -> tuple[int, int]:
        """Width and height of a video's frames after resizing; the limits apply to all frames together."""
        unit, least, most, tokens = self.frame_limits(768)
        count, together = len(video.frames), self.model.config.vision_config.temporal_patch_size
        most = max(min(tokens * unit**2, most // count), int(least * 1.05)) * count
        return frames.fitted_size(video.size, unit, least, most, count, together)

    def video_times(self, videos: Sequence[Video]) -> dict[str, Tensor]:
        return {}  # the prompt contains the times

    def video_prompt(self, video: Video) -> str:
        pairs, rows, columns = self.video_grid(video)
        together = self.model.config.vision_config.temporal_patch_size
        times = [*video.times, *video.times[-1:] * (-len(video.times) % together)]
        spans = [(times[first], times[first + together - 1]) for first in range(0, len(times), together)]
        tokens = self.video_token * (rows * columns)
        processor = self._processor()
        start, end = processor.vision_start_token, processor.vision_end_token
        return "".join(f"<{(first + last) / 2:.1f} seconds>{start}{tokens}{end}" for first, last in spans)

    def added(self, features: Any) -> Sequence[Tensor]:
        every = features.deepstack_features  # a list of parts, or one tensor for videos in some releases
        return [each if isinstance(each, Tensor) else torch.cat(list(each)) for each in every]
