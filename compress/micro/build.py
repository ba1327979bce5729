"""The recipe of the micro model, from nothing to `weights/micro`: `make micro`, or

    python -m compress.micro.build --work build/micro

Stages as LLaVA's, with a tower of our own before them: render scenes, train the tower, align the projector,
tune on instructions (half of the decoder's layers first, then all). Every stage keeps checkpoints in the work
folder, so a run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import pickle
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from socket import socket

import numpy as np
import torch
import torch.distributed as dist
from torch import multiprocessing
from transformers import CLIPVisionConfig, CLIPVisionModel, LlavaForConditionalGeneration

from compress.files import replacing
from compress.micro.decoder import (
    Alignment,
    Course,
    Lesson,
    accuracy,
    align,
    all_lessons,
    instruct,
    lessons,
    new_model,
    tower_features,
)
from compress.micro.language import processor
from compress.micro.optim import rank, wait
from compress.micro.tower import MEAN, STD, Heads, Scenes, new_tower, render_scenes, train_tower
from compress.micro.world import PATCH, SIDE

WEIGHTS = Path(__file__).parent / "weights" / "micro"
VISION = CLIPVisionConfig(
    hidden_size=96, intermediate_size=384, num_hidden_layers=4, num_attention_heads=4,
    image_size=SIDE, patch_size=PATCH, projection_dim=96,
)  # fmt: skip


@dataclass(frozen=True)
class Recipe:
    """How much of everything: scenes, and steps of each stage."""

    scenes: int = 24_000
    check_scenes: int = 300
    windows: int = 3000
    wholes: int = 1200
    places: int = 700
    align: int = 600
    courses: tuple[Course, ...] = (
        Course("what-thin", "what", steps=2000, steady=2000, every=2, visual=64, seed=5),
        Course("what", "what", steps=500, steady=100, every=2, lr=1.5e-3, matrix_lr=0.015, seed=6),
        Course("where", "where", steps=3000, steady=3000, every=2, lr=1.5e-3, matrix_lr=0.015, seed=8),
        Course("whole", "where", steps=1100, steady=100, lr=1.5e-3, matrix_lr=0.015, seed=9),
        # Cells have taught where things are; as anchors they split the background into dozens of groups.
        Course(
            "compressed", "where", steps=3000, steady=2000, lr=1e-3, matrix_lr=0.01,
            alignment=0.3, cells=False, thinned=0.75, seed=10,
        ),
    )  # fmt: skip


def build(recipe: Recipe, work: Path, target: Path, log: Callable[[str], None]) -> None:
    """Run or go on with the recipe in `work`; write model and processor to `target`.

    Processes that share a torch.distributed group share the instruction tuning; all else is the first one's.
    """
    if rank() == 0:
        work.mkdir(parents=True, exist_ok=True)
        _tower(recipe, work, log)
    wait()
    scenes, tower = _scenes(work / "scenes.npz", "train", recipe.scenes), _tower(recipe, work, log)
    model = new_model(VISION, width=96, inner=192, layers=12, heads=4, seed=3)
    model.model.vision_tower.load_state_dict(tower.state_dict())
    features = tower_features(tower, scenes)
    check_features = tower_features(tower, _scenes(work / "check.npz", "val", recipe.check_scenes))
    check_lessons = lessons("val", range(recipe.check_scenes), 0, 12)
    alignment = Alignment(scenes)
    align(model, features, alignment, recipe.align, log)

    def taught(course: Course, epoch: int) -> list[Lesson]:
        path = work / f"lessons-{course.mixture}-{epoch}.pkl"
        if rank() == 0 and not path.exists():
            made = all_lessons("train", recipe.scenes, epoch, course.questions, course.mixture)
            with replacing(path) as part, part.open("wb") as file:
                pickle.dump(made, file)
        wait()
        with path.open("rb") as file:
            kept: list[Lesson] = pickle.load(file)
        return kept

    def check() -> dict[str, float]:
        return accuracy(model, check_features, check_lessons)

    for course in recipe.courses:
        instruct(model, features, partial(taught, course), alignment, course, work, log, check)
    if rank() == 0:
        save(model, target)


def _tower(recipe: Recipe, work: Path, log: Callable[[str], None]) -> CLIPVisionModel:
    """The trained tower: first what patches show and what scenes hold, then also where patches are."""
    scenes = _scenes(work / "scenes.npz", "train", recipe.scenes)
    _scenes(work / "check.npz", "val", recipe.check_scenes)
    torch.manual_seed(0)
    tower, heads = new_tower(VISION), Heads(VISION.hidden_size)
    train = partial(train_tower, tower, heads, scenes, log=log)
    train(work / "tower.pt", windows=recipe.windows, wholes=recipe.wholes, places=0.0, seed=1)
    train(work / "places.pt", windows=0, wholes=recipe.places, places=0.5, seed=2)
    return tower


def save(model: LlavaForConditionalGeneration, target: Path) -> None:
    """Write weights, configuration and processor files; the folder is replaced at once."""
    part = target.with_name(f"{target.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    model.eval().save_pretrained(part)
    processor(MEAN, STD).save_pretrained(part)
    shutil.rmtree(target, ignore_errors=True)
    part.rename(target)


def _scenes(path: Path, split: str, count: int) -> Scenes:
    if not path.exists():
        made = render_scenes(split, range(count))
        with replacing(path) as part, part.open("wb") as file:
            np.savez(file, **vars(made))
    with np.load(path) as stored:
        return Scenes(**{name: stored[name] for name in stored.files})


def _process(number: int, processes: int, port: int, work: Path, target: Path) -> None:
    """One of `processes` that train together, with one thread."""
    torch.set_num_threads(1)
    where = f"tcp://127.0.0.1:{port}"
    dist.init_process_group(
        "gloo", init_method=where, rank=number, world_size=processes, timeout=timedelta(hours=3)
    )
    began = time.monotonic()

    def log(line: str) -> None:
        if number == 0:
            print(f"{time.monotonic() - began:6.0f} s  {line}", flush=True)

    build(Recipe(), work, target, log)
    dist.destroy_process_group()


def _free_port() -> int:
    with socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def main() -> None:
    parser = argparse.ArgumentParser(description="Rebuild the shipped micro model.")
    parser.add_argument("--work", type=Path, default=Path("build/micro"), help="checkpoints and caches")
    parser.add_argument("--out", type=Path, default=WEIGHTS, help="where the model is written")
    parser.add_argument("--processes", type=int, default=2, help="a thread each; they share every batch")
    given = parser.parse_args()
    multiprocessing.spawn(
        _process, (given.processes, _free_port(), given.work, given.out), nprocs=given.processes
    )
    print(f"saved in {given.out}")


if __name__ == "__main__":
    main()
