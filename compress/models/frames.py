"""Preprocessing of video frames for towers, with PIL: stock video processors need torchvision."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers.utils import cached_file

from compress.video import Video

SETTINGS = ("size", "crop_size", "do_center_crop", "max_video_tokens")


def read_settings(source: str) -> dict[str, Any]:
    """The video settings in a folder or of a hub name, restricted to `SETTINGS`; empty if there are none."""
    found: dict[str, Any] = {}
    for name, part in (
        ("processor_config.json", "video_processor"),
        ("video_preprocessor_config.json", None),
    ):
        path = cached_file(source, name, _raise_exceptions_for_missing_entries=False)
        if path is None:
            continue
        written = json.loads(Path(path).read_text())
        found.update(written if part is None else written.get(part) or {})
    if "size" not in found and {"min_pixels", "max_pixels"} <= found.keys():  # form of older releases
        found["size"] = {"shortest_edge": found["min_pixels"], "longest_edge": found["max_pixels"]}
    return {name: found[name] for name in SETTINGS if found.get(name) is not None}


def settings_of(processor: Any) -> Mapping[str, Any]:
    """The video settings of a processor: of its video processor, or those read from its folder."""
    videos = getattr(processor, "video_processor", None)
    if videos is None:
        return getattr(processor, "video_settings", {})
    return {name: value for name in SETTINGS if (value := getattr(videos, name, None)) is not None}


def fitted_size(
    size: tuple[int, int], unit: int, least: int, most: int, frames: int = 1, together: int = 1
) -> tuple[int, int]:
    """Width and height, multiples of `unit`, for images of this size with `least` to `most` pixels in all.

    `frames` images count, in groups of `together`. The rule of Qwen2-VL and, with frames, of Qwen3-VL.
    """
    width, height = size
    if frames > 1 and min(size) < unit:  # a thin image is enlarged first
        scale = max(unit / height, unit / width)
        height, width = int(height * scale), int(width * scale)
    high, wide = (round(side / unit) * unit for side in (height, width))
    count = round(frames / together) * together
    if count * high * wide > most:
        shrink = math.sqrt(frames * height * width / most)
        high, wide = (max(unit, math.floor(side / shrink / unit) * unit) for side in (height, width))
    elif count * high * wide < least:
        grow = math.sqrt(least / (frames * height * width))
        high, wide = (math.ceil(side * grow / unit) * unit for side in (height, width))
    return wide, high


def normalised(frames: Sequence[Image.Image], pixels: Any) -> Tensor:
    """Frames [F, 3, H, W], scaled to 0 .. 1 and normalised with an image processor's mean and deviation."""
    stacked = torch.from_numpy(np.stack([np.asarray(frame.convert("RGB")) for frame in frames]))
    scaled = stacked.permute(0, 3, 1, 2).float() * pixels.rescale_factor
    mean, deviation = (torch.tensor(each)[:, None, None] for each in (pixels.image_mean, pixels.image_std))
    return (scaled - mean) / deviation


def patched(frames: Tensor, patch: int, merge: int, together: int) -> tuple[Tensor, list[int]]:
    """Rows [n, 3 * together * patch * patch] of frames [F, 3, H, W] for the tower, and their grid [T, H, W].

    `merge` x `merge` neighbouring patches are adjacent. The last frame is repeated until the groups are full.
    """
    missing = -len(frames) % together
    frames = torch.cat([frames, frames[-1:].expand(missing, -1, -1, -1)])
    times, high, wide = len(frames) // together, frames.shape[2] // patch, frames.shape[3] // patch
    cut = frames.view(times, together, 3, high // merge, merge, patch, wide // merge, merge, patch).permute(
        0, 3, 6, 4, 7, 2, 1, 5, 8
    )
    return cut.reshape(times * high * wide, -1), [times, high, wide]


def resized(video: Video, size: tuple[int, int], resample: Any) -> list[Image.Image]:
    """The frames resized to this width and height."""
    if video.size == size:
        return list(video.frames)
    return [frame.convert("RGB").resize(size, resample) for frame in video.frames]


def stacked(name: str, processor: Any, side: int, videos: Sequence[Video]) -> dict[str, Tensor]:
    """Videos [V, F, 3, side, side] for a tower of square images, cropped at the centre or squashed, as set.

    ValueError, which names the model, for videos of several lengths.
    """
    pixels, settings = processor.image_processor, settings_of(processor)
    crops = settings.get("do_center_crop", getattr(pixels, "do_center_crop", False))
    lengths = [len(video.frames) for video in videos]
    if len(set(lengths)) > 1:
        raise ValueError(
            f"the videos have {', '.join(map(str, lengths))} frames: {name} reads videos of one length in a "
            f"batch"
        )
    made = [normalised(_squares(video, side, crops, pixels.resample), pixels) for video in videos]
    return {"pixel_values_videos": torch.stack(made)}


def _squares(video: Video, side: int, crops: bool, resample: Any) -> list[Image.Image]:
    if not crops:
        return resized(video, (side, side), resample)
    width, height = video.size
    short = min(width, height)
    frames = resized(video, (width * side // short, height * side // short), resample)
    left, top = (frames[0].width - side) // 2, (frames[0].height - side) // 2
    return [frame.crop((left, top, left + side, top + side)) for frame in frames]
