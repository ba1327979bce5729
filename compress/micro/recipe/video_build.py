"""The recipe of the video twin: draw clips, encode them once with a frozen tower, tune on questions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import (
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessorPil,
)

from compress.files import replacing
from compress.micro.language import CHAT_TEMPLATE
from compress.micro.recipe.tower import MEAN, STD
from compress.micro.recipe.video_decoder import (
    MERGE,
    PATCH,
    Shelf,
    VideoCourse,
    accuracy,
    instruct,
    new_video,
    shelf,
    video,
)
from compress.micro.video_language import tokenizer
from compress.micro.video_world import CELL, PER_MOMENT, clip
from compress.micro.world import SIDE
from compress.models.loading import load
from compress.models.processors import images_only

Log = Callable[[str], None]
# Start with few actors and few visual tokens, which are cheap.
SOME = VideoCourse("some", steps=1400, steady=1400, visual=(72,), things=(2, 3, 3, 4))
MOST = replace(
    SOME, name="most", steps=1100, steady=1100, visual=(96,), things=(3, 4, 9, 9), lr=1.2e-3, matrix_lr=0.01,
    seed=62,
)  # fmt: skip
COURSES = (
    SOME, MOST,
    replace(
        MOST, name="all", steps=2000, steady=950, visual=(48, 96, 96, 288), things=(9,), probe=1.0, seed=63
    ),
)  # fmt: skip


@dataclass(frozen=True)
class VideoRecipe:
    """The size of a build: shelves of training clips, and courses."""

    shelves: int = 15
    clips: int = 400  # per shelf
    held: int = 100  # validation clips
    courses: tuple[VideoCourse, ...] = COURSES


def teach_video(recipe: VideoRecipe, work: Path, log: Log) -> Qwen2_5_VLForConditionalGeneration:
    """Run or resume the recipe in `work` and return the model."""
    work.mkdir(parents=True, exist_ok=True)
    model = new_video(load("micro-qwen").model)
    pupil = video(model)
    held = _shelf(model, "val", range(recipe.held), work / "held.pt")
    stock = [
        _shelf(model, "train", range(n * recipe.clips, (n + 1) * recipe.clips), work / f"clips-{n}.pt")
        for n in range(recipe.shelves)
    ]

    def draw(step: int) -> Shelf:
        return stock[int(torch.randint(len(stock), (1,), generator=torch.Generator().manual_seed(step)))]

    for course in recipe.courses:
        instruct(pupil, draw, course, work / f"{course.name}.pt", log)
        log("check " + " ".join(f"{k} {v:.3f}" for k, v in accuracy(pupil, held).items()))
    return model


def _shelf(model: Any, split: str, seeds: range, path: Path) -> Shelf:
    """Return clips with the tower's features, which are computed once."""
    if not path.exists():
        with replacing(path) as part:
            torch.save(shelf(model, split, seeds).features, part)
    return Shelf([clip(split, seed) for seed in seeds], torch.load(path, weights_only=True))


def video_processor() -> Any:
    """Build a processor for images up to the pixels of a frame, with a template for images and videos."""
    images = Qwen2VLImageProcessorPil(
        patch_size=PATCH, merge_size=MERGE, temporal_patch_size=PER_MOMENT,
        image_mean=list(MEAN), image_std=list(STD), do_convert_rgb=True,
        size={"shortest_edge": (2 * CELL) ** 2, "longest_edge": SIDE**2},
    )  # fmt: skip
    loop = "{% for c in m['content'] if c['type'] == 'image' %}<image> {% endfor %}"
    assert loop in CHAT_TEMPLATE
    either = (
        "{% for c in m['content'] if c['type'] in ('image', 'video') %}"
        "<|vision_start|><|{{ c['type'] }}_pad|><|vision_end|> {% endfor %}"
    )
    template = CHAT_TEMPLATE.replace(loop, either)
    return images_only(Qwen2_5_VLProcessor)(images, tokenizer(), chat_template=template)
