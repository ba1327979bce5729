from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor
from transformers import BatchFeature

from compress.images import check_shape
from compress.models import frames
from compress.models.mllm import MLLM, Picture, with_values
from compress.video import Video

NOISE = 16  # visual tokens along a side of a frame of random pixels
POSITIONED = "image_grid_thw", "video_grid_thw", "second_per_grid_ts"  # inputs that determine positions


class Qwen25VL(MLLM):
    """Qwen2.5-VL: window attention without CLS in the tower, 2 x 2 patches per visual token, M-RoPE.

    The number of an image's tokens depends on its size, between the processor's limits. Methods act at the
    decoder's input and inside the decoder; in the tower they can read the attention that tokens receive.
    Positions are not renumbered: three axes cannot be made compact. Two frames of a video are merged into one
    in the tower, and `frames` of a view counts such pairs.
    """

    processor_parts = ("Qwen2_5_VLProcessor", "Qwen2VLImageProcessorPil")
    image_arguments = ("pixel_values", "image_grid_thw")
    video_arguments: tuple[str, ...] = ("pixel_values_videos", "video_grid_thw")
    receives = True
    free_size = True
    mrope = True
    frames_apart = False  # whether text separates the frames of a video

    def fitted(self, processor: Any) -> Any:
        vision = self.model.config.vision_config
        pixels = with_values(
            processor.image_processor,
            patch_size=vision.patch_size,
            merge_size=vision.spatial_merge_size,
            temporal_patch_size=vision.temporal_patch_size,
        )
        return with_values(processor, image_processor=pixels)

    @property
    def tower(self) -> Any:
        return self.model.model.visual

    @property
    def tower_layers(self) -> Any:
        return self.tower.blocks

    @property
    def projector(self) -> Any:
        return self.tower.merger

    @property
    def grid(self) -> tuple[int, int]:
        """The largest square that the processor allows, for budgets; each image has its own grid."""
        vision = self.model.config.vision_config
        unit = vision.patch_size * vision.spatial_merge_size
        side = int(self.most_pixels**0.5) // unit
        return side, side

    @property
    def most_pixels(self) -> int:
        """Maximum pixels of an image after resizing."""
        return self.processor.image_processor.size["longest_edge"] if self.processor else 1280 * 28 * 28

    @property
    def image_side(self) -> int:
        vision = self.model.config.vision_config
        return int(self.grid[0] * vision.patch_size * vision.spatial_merge_size)

    def _tokens_of(self, image: Image) -> int:
        check_shape(image.size)
        pixels = self._processor().image_processor
        patches = pixels.get_number_of_image_patches(image.height, image.width)
        return int(patches // pixels.merge_size**2)

    def tower_block(self, layer: float) -> int:
        asked = super().tower_block(layer)
        full = getattr(self.tower.config, "fullatt_block_indexes", None)  # None = no window attention
        if full is None:
            return asked
        return min(sorted(full, reverse=True), key=lambda number: abs(number - asked))  # the later wins a tie

    def tower_groups(self, picture: Picture) -> Tensor:
        rows, columns = picture.grid
        place = torch.arange(rows * columns, device=self.index_device)
        vision = self.model.config.vision_config
        merged = vision.spatial_merge_size
        if getattr(vision, "fullatt_block_indexes", None) is not None:  # tokens are ordered by window
            side = vision.window_size // (vision.patch_size * merged)
            window = place // columns // side * columns + place % columns // side
            place = window.argsort(stable=True).argsort()
        return place[:, None] * merged**2 + torch.arange(merged**2, device=place.device)

    def tower_pixels(self, args: tuple, kwargs: Mapping[str, Any]) -> Sequence[Tensor]:
        pixels, grids = args[0] if args else kwargs["hidden_states"], kwargs.get("grid_thw")
        each = (args[1] if grids is None else grids).tolist()
        sizes = [height * width for times, height, width in each for _ in range(times)]
        tiles: Sequence[Tensor] = pixels.split(sizes)
        return tiles

    def pictures(self, given: Mapping[str, Any]) -> list[Picture]:
        if given.get("image_grid_thw") is None:
            raise ValueError("give image_grid_thw, as the processor returns it, with the pixel_values")
        merge = self.model.config.vision_config.spatial_merge_size
        pictures = []
        for _, height, width in given["image_grid_thw"].tolist():
            grid = height // merge, width // merge
            pictures.append(Picture.of_grid(grid, self.index_device))
        return pictures

    def frame_size(self, video: Video) -> tuple[int, int]:
        """Width and height of a video's frames after resizing.

        The limits apply to one frame, and all frames together have at most nine tenths of `max_video_tokens`:
        the rule of the authors' own code, and of transformers with `cap_pixels_per_frame=True`.
        """
        unit, least, most, tokens = self.frame_limits(128_000)
        share = int(tokens * unit**2 * 0.9) * self.model.config.vision_config.temporal_patch_size
        most = max(min(most, share // len(video.frames)), int(least * 1.05))
        return frames.fitted_size(video.size, unit, least, most)

    def frame_limits(self, tokens: int) -> tuple[int, int, int, int]:
        """Side of a visual token in pixels, minimum and maximum pixels, and maximum visual tokens of a video.

        The last is `tokens` if the processor does not define it.
        """
        vision, settings = self.model.config.vision_config, frames.settings_of(self._processor())
        unit, size = vision.patch_size * vision.spatial_merge_size, settings.get("size")
        size = size or self._processor().image_processor.size
        return unit, size["shortest_edge"], size["longest_edge"], settings.get("max_video_tokens", tokens)

    def video_grid(self, video: Video) -> tuple[int, int, int]:
        """Pairs of frames, rows and columns of a video's visual tokens."""
        vision = self.model.config.vision_config
        unit = vision.patch_size * vision.spatial_merge_size
        width, height = self.frame_size(video)
        return self._pairs(len(video.frames)), height // unit, width // unit

    def video_inputs(self, videos: Sequence[Video]) -> dict[str, Tensor]:
        vision, pixels = self.model.config.vision_config, self._processor().image_processor
        rows, grids = [], []
        for video in videos:
            shown = frames.resized(video, self.frame_size(video), pixels.resample)
            found, grid = frames.patched(
                frames.normalised(shown, pixels), vision.patch_size, vision.spatial_merge_size,
                vision.temporal_patch_size,
            )  # fmt: skip
            rows.append(found)
            grids.append(grid)
        return {
            "pixel_values_videos": torch.cat(rows), "video_grid_thw": torch.tensor(grids),
            **self.video_times(videos),
        }  # fmt: skip

    def video_times(self, videos: Sequence[Video]) -> dict[str, Tensor]:
        """Seconds between the pairs of frames of each video, for its positions."""
        together = self.model.config.vision_config.temporal_patch_size
        return {"second_per_grid_ts": torch.tensor([together * video.step for video in videos])}

    def video_prompt(self, video: Video) -> str:
        times, rows, columns = self.video_grid(video)
        return self.video_token * (times * rows * columns)

    def videos(self, given: Mapping[str, Any]) -> list[Picture]:
        if given.get("video_grid_thw") is None:
            raise ValueError("give video_grid_thw, as the processor returns it, with the pixel_values_videos")
        merge, found = self.model.config.vision_config.spatial_merge_size, []
        for times, height, width in given["video_grid_thw"].tolist():
            grid = height // merge, width // merge
            found.append(Picture.of_video(times, grid, self.index_device, apart=self.frames_apart))
        return found

    def video_ids(self, frames: int) -> list[int]:
        pairs, config = self._pairs(frames), self.model.config
        each = [config.video_token_id] * NOISE**2
        if not self.frames_apart:
            return each * pairs
        return [config.vision_start_token_id, *each, config.vision_end_token_id] * pairs

    def video_noise(self, ids: Tensor, frames: int, draw: torch.Generator) -> dict[str, Tensor]:
        vision, pairs = self.model.config.vision_config, self._pairs(frames)
        side = NOISE * vision.spatial_merge_size
        patch = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
        return {
            "pixel_values_videos": self._pixels((len(ids) * pairs * side**2, patch), draw),
            "video_grid_thw": torch.tensor([[pairs, side, side]] * len(ids), device=ids.device),
            "mm_token_type_ids": 2 * self.placeholders(ids).int(),
        }

    def _pairs(self, frames: int) -> int:
        return -(-frames // self.model.config.vision_config.temporal_patch_size)

    def noise(self, ids: Tensor, draw: torch.Generator) -> dict[str, Tensor]:
        vision = self.model.config.vision_config
        height, width = (side * vision.spatial_merge_size for side in self.grid)
        patch = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
        return {
            "pixel_values": self._pixels((len(ids) * height * width, patch), draw),
            "image_grid_thw": torch.tensor([[1, height, width]] * len(ids), device=ids.device),
            "mm_token_type_ids": (ids == self.image_token_id).int(),
        }

    def position_offsets(self, given: Mapping[str, Any], sizes: Tensor) -> Tensor | None:
        ids = given.get("position_ids")
        if ids is not None:  # three axes, possibly after a fourth that counts tokens
            latest = ids[-3:].amax((0, 2)) if ids.ndim == 3 else ids.amax(1)
            return latest + 1 - sizes
        grids = given.get("image_grid_thw"), given.get("video_grid_thw")
        if given.get("mm_token_type_ids") is None or grids == (None, None):
            return None  # positions are row numbers; the model may hold offsets of an earlier prefill
        deltas: Tensor = self.model.model.rope_deltas
        return deltas.view(-1).clone()

    def next_positions(
        self, sizes: Sequence[int], length: int, decoded: int, count: int, offsets: Tensor | None
    ) -> Tensor:
        if offsets is None:  # text alone, or images with text positions
            return super().next_positions(sizes, length, decoded, count, None)
        first = torch.tensor(sizes) + decoded + offsets.cpu()
        return (first[:, None] + torch.arange(count)).expand(3, -1, -1)

    def positions(self, inputs: BatchFeature, response: int) -> Tensor:
        found, _ = self.model.model.get_rope_index(
            inputs["input_ids"],
            mm_token_type_ids=inputs["mm_token_type_ids"],
            attention_mask=inputs["attention_mask"],
            **{name: inputs[name] for name in POSITIONED if name in inputs},
        )
        prompt: Tensor = found[:, 0]  # ends in text; frames of a video may have later positions
        after = 1 + torch.arange(response, device=prompt.device)
        return torch.cat([prompt, prompt[:, -1:] + after], 1)
