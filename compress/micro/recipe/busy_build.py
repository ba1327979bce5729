"""The recipe of the busy model: tower, then instruction tuning with a growing number of things and tokens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import CLIPVisionModel, LlavaForConditionalGeneration

from compress.files import replacing
from compress.micro.recipe.busy_decoder import Book, Course, book, instruct, llava, new_model
from compress.micro.recipe.busy_tower import (
    BusySceneBatch,
    BusyTowerHeads,
    grown_tower,
    render_scenes,
    train_tower,
    word_table,
)
from compress.models.loading import load

Log = Callable[[str], None]

# A model learns to find one thing among few much faster than among forty, and few visual tokens reduce the
# cost to a fifth.
FEW = Course(
    "few", steps=1200, steady=1200, visual={0: (112,)}, lr=1.5e-3, matrix_lr=0.012, alignment=0.2,
    things=(8, 8), seed=7,
)  # fmt: skip
COURSES = (
    FEW,
    replace(FEW, name="more", steps=800, steady=800, things=(8, 12)),
    replace(FEW, name="most", steps=4200, steady=4200, things=(9, 35), seed=8),
    replace(
        FEW, name="all", steps=2300, steady=600, things=(36, 60), seed=9,
        visual={0: (112, 112, 112, 256, 256, 576), 1500: (112, 256, 576, 576, 576)},
    ),
)  # fmt: skip


@dataclass(frozen=True)
class BusyRecipe:
    """The size of a build: scenes and steps of the tower's training, and of instruction tuning."""

    scenes: int = 6000
    windows: int = 900
    wholes: int = 600
    books: int = 48  # of scenes for instruction tuning
    pages: int = 500  # scenes in a book
    courses: tuple[Course, ...] = COURSES
    text_scenes: int = 1500
    text_steps: int = 600


def teach_busy(recipe: BusyRecipe, work: Path, log: Log) -> LlavaForConditionalGeneration:
    """Run or resume the recipe in `work` and return the model."""
    work.mkdir(parents=True, exist_ok=True)
    micro = load("micro").model
    tower = _tower(recipe, micro, work, log)
    model = new_model(micro)
    model.model.vision_tower.load_state_dict(tower.state_dict())
    pupil = llava(model)
    books = [_book(recipe, tower, work, number) for number in range(recipe.books)]

    def shelf(step: int) -> Book:
        return books[int(torch.randint(len(books), (1,), generator=torch.Generator().manual_seed(step)))]

    for course in recipe.courses:
        instruct(pupil, shelf, course, work / f"{course.name}.pt", log)
    return model


def _tower(recipe: BusyRecipe, micro: Any, work: Path, log: Log) -> CLIPVisionModel:
    """Train the micro model's enlarged tower and its projector on windows and whole scenes."""
    path = work / "scenes.npz"
    if not path.exists():
        made = render_scenes("train", range(recipe.scenes))
        with replacing(path) as part, part.open("wb") as file:
            np.savez(file, **vars(made))
    with np.load(path) as stored:
        scenes = BusySceneBatch(**{name: stored[name] for name in stored.files})
    torch.manual_seed(0)
    tower = grown_tower(micro).requires_grad_(True)
    projector = micro.model.multi_modal_projector.requires_grad_(True)
    train_tower(
        tower, BusyTowerHeads(tower.config.hidden_size), projector, word_table(micro), scenes,
        work / "tower.pt",
        windows=recipe.windows, wholes=recipe.wholes, seed=1, log=log,
    )  # fmt: skip
    return tower


def _book(recipe: BusyRecipe, tower: CLIPVisionModel, work: Path, number: int) -> Book:
    """Return scenes with the tower's features, cached in a file."""
    path = work / f"book-{number:03d}.pt"
    if not path.exists():
        first = number * recipe.pages
        made = book(tower, "train", range(first, first + recipe.pages))
        with replacing(path) as part:
            torch.save(vars(made), part)
    return Book(**torch.load(path, weights_only=False))
