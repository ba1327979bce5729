"""The recipe of the micro model, from nothing to `weights/micro`: `make micro`, or

    python -m compress.micro.build --work build/micro

Stages as LLaVA's, with a tower of our own before them: render scenes, train the tower, align the projector,
tune on instructions (half of the decoder's layers first, then all). Every stage keeps checkpoints in the work
folder, so a run that was stopped goes on where it was. Two CPU cores take about three hours.
"""

from __future__ import annotations

import argparse
import pickle
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from transformers import CLIPVisionConfig, LlavaForConditionalGeneration

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
from compress.micro.tower import MEAN, STD, Scenes, new_tower, render_scenes, train_tower
from compress.micro.world import PATCH, SIDE

WEIGHTS = Path(__file__).parent / "weights" / "micro"
TRAINING_SCENES, CHECK_SCENES = 24_000, 300
VISION = CLIPVisionConfig(
    hidden_size=96, intermediate_size=384, num_hidden_layers=4, num_attention_heads=4,
    image_size=SIDE, patch_size=PATCH, projection_dim=96,
)  # fmt: skip
COURSES = (
    Course("half", steps=3000, steady=3000, every=2, visual=64),
    Course("whole", steps=1500, steady=1500 - 1500),
)


def build(work: Path, target: Path, log: Callable[[str], None]) -> LlavaForConditionalGeneration:
    """Run or go on with the recipe in `work`; write model and processor to `target`."""
    work.mkdir(parents=True, exist_ok=True)
    scenes = _scenes(work / "scenes.npz", "train", TRAINING_SCENES)
    torch.manual_seed(0)
    tower = new_tower(VISION)
    train_tower(tower, scenes, work, windows=3000, wholes=1900, seed=1, log=log)

    model = new_model(VISION, width=96, inner=192, layers=12, heads=4, seed=3)
    model.model.vision_tower.load_state_dict(tower.state_dict())
    features = tower_features(tower, scenes)
    check_features = tower_features(tower, _scenes(work / "check.npz", "val", CHECK_SCENES))
    check_lessons = lessons("val", range(CHECK_SCENES), 0, 12)
    alignment = Alignment(scenes)
    align(model, features, alignment, 600, log)

    def taught(epoch: int) -> list[Lesson]:
        path = work / f"lessons{epoch}.pkl"
        return _kept(path, lambda: all_lessons("train", TRAINING_SCENES, epoch, COURSES[0].questions))

    def check() -> dict[str, float]:
        return accuracy(model, check_features, check_lessons)

    for course in COURSES:
        instruct(model, features, taught, alignment, course, work, log, check)
    save(model, target)
    return model


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


def _kept(path: Path, make: Callable[[], list[Lesson]]) -> list[Lesson]:
    if not path.exists():
        made = make()
        with replacing(path) as part, part.open("wb") as file:
            pickle.dump(made, file)
    with path.open("rb") as file:
        kept: list[Lesson] = pickle.load(file)
    return kept


def main() -> None:
    parser = argparse.ArgumentParser(description="Rebuild the shipped micro model.")
    parser.add_argument("--work", type=Path, default=Path("build/micro"), help="checkpoints and caches")
    parser.add_argument("--out", type=Path, default=WEIGHTS, help="where the model is written")
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    began = time.monotonic()
    build(given.work, given.out, lambda line: print(f"{time.monotonic() - began:6.0f} s  {line}", flush=True))
    print(f"saved in {given.out}")


if __name__ == "__main__":
    main()
