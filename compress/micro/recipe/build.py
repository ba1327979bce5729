"""Recipes that build the micro model in `weights/micro` from scratch, and its twins: `make micro`, or

    python -m compress.micro.recipe.build --model micro --work build/micro

The stages are those of LLaVA, preceded by training of our own tower: render scenes, train the tower, align
the projector, tune on instructions (half of the decoder's layers first, then all). The twins start from the
existing micro model. Every stage saves checkpoints in the work folder, so an interrupted run resumes.
"""

from __future__ import annotations

import argparse
import pickle
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, multiprocessing
from transformers import CLIPVisionConfig, CLIPVisionModel, PreTrainedModel, ProcessorMixin, Qwen3VLProcessor

from compress.files import replacing
from compress.micro.busy_language import processor as busy_processor
from compress.micro.language import processor
from compress.micro.recipe.busy_build import BusyRecipe, teach_busy
from compress.micro.recipe.busy_text import FOLDER, new_clip, pair, save_clip
from compress.micro.recipe.decoder import (
    Alignment,
    Lesson,
    TeachingStage,
    TrainingModel,
    accuracy,
    align,
    all_lessons,
    instruct,
    lessons,
    llava,
    new_model,
    tower_features,
)
from compress.micro.recipe.optim import rank, wait
from compress.micro.recipe.qwen3 import match_lengths, new_qwen3, qwen3, taught_by
from compress.micro.recipe.tower import (
    MEAN,
    STD,
    SceneBatch,
    TowerHeads,
    new_tower,
    render_scenes,
    train_tower,
)
from compress.micro.recipe.twins import (
    imitate,
    llava_next,
    new_next,
    new_qwen,
    new_wide,
    next_processor,
    qwen,
    qwen_features,
    qwen_processor,
    windowed,
)
from compress.micro.recipe.video_build import VideoRecipe, teach_video, video_processor
from compress.micro.world import PATCH, SIDE
from compress.models.loading import WEIGHTS, load
from compress.parallel.processes import free_port

VISION = CLIPVisionConfig(
    hidden_size=96, intermediate_size=384, num_hidden_layers=4, num_attention_heads=4,
    image_size=SIDE, patch_size=PATCH, projection_dim=96,
)  # fmt: skip


@dataclass(frozen=True)
class MicroRecipe:
    """The size of a build: numbers of scenes, and steps of each stage."""

    scenes: int = 24_000
    check_scenes: int = 300
    windows: int = 0
    wholes: int = 0
    places: int = 0
    imitate: int = 0
    align: int = 0
    courses: tuple[TeachingStage, ...] = ()


# The last stage leaves out cells: as anchors they would split the background into dozens of groups.
LAST = TeachingStage(
    "compressed", "where", steps=3000, steady=2000, lr=1e-3, matrix_lr=0.01,
    alignment=0.3, cells=False, thinned=0.75, seed=10,
)  # fmt: skip
MICRO = MicroRecipe(
    windows=3000, wholes=1200, places=700, align=600,
    courses=(
        TeachingStage("what-thin", "what", steps=2000, steady=2000, every=2, visual=64, seed=5),
        TeachingStage("what", "what", steps=500, steady=100, every=2, lr=1.5e-3, matrix_lr=0.015, seed=6),
        TeachingStage("where", "where", steps=3000, steady=3000, every=2, lr=1.5e-3, matrix_lr=0.015, seed=8),
        TeachingStage("whole", "where", steps=1100, steady=100, lr=1.5e-3, matrix_lr=0.015, seed=9),
        LAST,
    ),
)  # fmt: skip
TWIN = replace(LAST, text=160, alignment=0.2, thinned=0.5)
NEXT = MicroRecipe(
    scenes=6000, wholes=800,
    courses=(
        replace(TWIN, name="few", steps=400, steady=120, visual=160, seed=21),
        replace(TWIN, name="more", steps=500, steady=300, visual=320, batch=8, seed=22),
        replace(TWIN, name="all", steps=300, steady=100, batch=8, seed=23),
    ),
)  # fmt: skip
QWEN = MicroRecipe(
    imitate=1500, courses=(replace(LAST, steps=500, steady=300, thinned=0.5, seed=31),)
)  # fmt: skip
QWEN3 = MicroRecipe(
    scenes=3200, imitate=1300,
    courses=(
        replace(LAST, name="decoder", steps=160, steady=100, visual=72, thinned=0.5, half=True, seed=51),
        replace(
            LAST, name="together", steps=100, steady=30, warmup=10, batch=8, text=144, lr=3e-4,
            matrix_lr=1.5e-3, alignment=0.1, thinned=0.3, half=True, seed=52,
        ),
    ),
)  # fmt: skip
WIDE = MicroRecipe(courses=(replace(LAST, steps=250, steady=120, thinned=0.5, seed=41),))

Log = Callable[[str], None]


def build_micro(recipe: MicroRecipe, work: Path, target: Path, log: Log) -> None:
    """Run or resume the recipe in `work`; write model and processor to `target`.

    Processes of a torch.distributed group share the instruction tuning; the first one does everything else.
    """
    first(partial(_tower, recipe, work, log))
    tower = _tower(recipe, work, log)
    model = new_model(VISION, width=96, inner=192, layers=12, heads=4, seed=3)
    model.model.vision_tower.load_state_dict(tower.state_dict())
    train, check = _scenes(work, recipe)
    teach(llava(model), train, check, partial(tower_features, tower), recipe, work, log)
    save(model, processor(MEAN, STD), target)


def build_next(recipe: MicroRecipe, work: Path, target: Path, log: Log) -> None:
    """Build a LLaVA-NeXT: the micro model's tower learns tiles, on which things are twice as large."""
    micro = load("micro").model

    def tower() -> CLIPVisionModel:
        train, _ = _scenes(work, recipe, tiled=True)
        tower, heads = micro.model.vision_tower.requires_grad_(True), TowerHeads(VISION.hidden_size)
        train_tower(
            tower, heads, train.tiles, work / "tower.pt", windows=0, wholes=recipe.wholes, places=0.5, seed=3,
            log=log,
        )  # fmt: skip
        return tower

    first(tower)
    features = partial(tower_features, tower())
    model = new_next(micro)
    teach(llava_next(model), *_scenes(work, recipe, tiled=True), features, recipe, work, log)
    save(model.half(), next_processor(model), target)


def build_qwen(recipe: MicroRecipe, work: Path, target: Path, log: Log) -> None:
    """Build a Qwen2.5-VL: a new tower learns to reproduce the visual tokens of the micro model."""
    micro = load("micro").model
    model = new_qwen(micro, heads=5)
    pupil = qwen(model)

    def tower() -> None:
        train, _ = _scenes(work, recipe)
        features = tower_features(micro.model.vision_tower, train)

        def see(pixels: Tensor) -> Tensor:
            return pupil.project(windowed(model, pixels))

        imitate(pupil, see, llava(micro), train, features, work / "tower.pt", recipe.imitate, log)

    first(tower)
    tower()
    teach(pupil, *_scenes(work, recipe), partial(qwen_features, model), recipe, work, log)
    save(model.half(), qwen_processor(), target)


def build_qwen3(recipe: MicroRecipe, work: Path, target: Path, log: Log) -> None:
    """Build a Qwen3-VL from the decoder of `micro-qwen` and a new tower.

    The decoder is trained on the micro model's visual tokens, then the tower learns to reproduce these
    tokens, then all parts are trained together.
    """
    micro, small = load("micro").model, load("micro-qwen").model
    model, teacher = new_qwen3(small), llava(micro)
    pupil = qwen3(model)
    train, check = _scenes(work, recipe)
    features = partial(tower_features, micro.model.vision_tower)
    seen = features(train)
    few = teacher.project(seen[:16].float())
    match_lengths(model, qwen(small), few, lessons("train", range(len(few)), 0, 12))
    apart, together = recipe.courses[:1], recipe.courses[1:]
    teach(taught_by(teacher, pupil), train, check, features, replace(recipe, courses=apart), work, log)
    tower = partial(
        imitate, pupil, pupil.project, teacher, train, seen, work / "tower.pt", recipe.imitate, log, half=True
    )
    first(tower)
    tower()

    def pixels(scenes: SceneBatch) -> Tensor:
        return torch.from_numpy(scenes.pixels)

    teach(pupil, train, check, pixels, replace(recipe, courses=together), work, log)
    save(model.half(), qwen_processor(Qwen3VLProcessor), target)


def build_wide(recipe: MicroRecipe, work: Path, target: Path, log: Log) -> None:
    """Build a LLaVA with a decoder of 1.5 times the width on the micro model's tower."""
    model = new_wide(load("micro").model, heads=6)
    features = partial(tower_features, model.model.vision_tower)
    teach(llava(model), *_scenes(work, recipe), features, recipe, work, log)
    save(model.half(), processor(MEAN, STD), target)


def build_busy(recipe: BusyRecipe, work: Path, target: Path, log: Log) -> None:
    """Build a LLaVA for the busy world; one process trains it, the others wait."""
    if rank() == 0:
        model = teach_busy(recipe, work, log)
        clip = new_clip(model.model.vision_tower)
        pair(clip, recipe.text_scenes, recipe.text_steps, log)
        model.config.mm_vision_tower = FOLDER
        save(model.half(), busy_processor(MEAN, STD), target)
        save_clip(clip, target)
    wait()


def build_video(recipe: VideoRecipe, work: Path, target: Path, log: Log) -> None:
    """Build a Qwen2.5-VL for clips from `micro-qwen`; one process trains it, the others wait."""
    if rank() == 0:
        save(teach_video(recipe, work, log).half(), video_processor(), target)
    wait()


BUILDERS = {
    "micro": partial(build_micro, MICRO), "micro-next": partial(build_next, NEXT),
    "micro-qwen": partial(build_qwen, QWEN), "micro-wide": partial(build_wide, WIDE),
    "micro-qwen3": partial(build_qwen3, QWEN3), "busy": partial(build_busy, BusyRecipe()),
    "micro-video": partial(build_video, VideoRecipe()),
}  # fmt: skip


def teach(
    pupil: TrainingModel, train: SceneBatch, held_out: SceneBatch, features: Callable[[SceneBatch], Tensor],
    recipe: MicroRecipe, work: Path, log: Log,
) -> None:  # fmt: skip
    """Run the stages common to all models: alignment and instruction tuning on a frozen tower's features."""
    seen, check_seen = features(train), features(held_out)
    check_lessons = lessons("val", range(recipe.check_scenes), 0, 12)
    alignment = Alignment(train, pupil.shows)
    if recipe.align:
        align(pupil, seen, alignment, recipe.align, log)

    def taught(course: TeachingStage, epoch: int) -> list[Lesson]:
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
        return accuracy(pupil, check_seen, check_lessons)

    for course in recipe.courses:
        instruct(pupil, seen, partial(taught, course), alignment, course, work, log, check)


def first(stage: Callable[[], object]) -> None:
    """Run a stage that writes checkpoints in the first process, while the others wait."""
    if rank() == 0:
        stage()
    wait()


def _tower(recipe: MicroRecipe, work: Path, log: Log) -> CLIPVisionModel:
    """Train the tower: first on contents of patches and scenes, then also on positions of patches."""
    scenes, _ = _scenes(work, recipe)
    torch.manual_seed(0)
    tower, heads = new_tower(VISION), TowerHeads(VISION.hidden_size)
    train = partial(train_tower, tower, heads, scenes, log=log)
    train(work / "tower.pt", windows=recipe.windows, wholes=recipe.wholes, places=0.0, seed=1)
    train(work / "places.pt", windows=0, wholes=recipe.places, places=0.5, seed=2)
    return tower


def save(model: PreTrainedModel, processor: ProcessorMixin, target: Path) -> None:
    """Write weights, configuration and processor in the first process; the folder is replaced at the end."""
    if rank() != 0:
        return
    part = target.with_name(f"{target.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    model.eval().save_pretrained(part)
    processor.save_pretrained(part)
    shutil.rmtree(target, ignore_errors=True)
    part.rename(target)


def _scenes(work: Path, recipe: MicroRecipe, tiled: bool = False) -> tuple[SceneBatch, SceneBatch]:
    """Return training scenes and validation scenes, rendered once."""
    sets = []
    for name, split, count in (("scenes", "train", recipe.scenes), ("check", "val", recipe.check_scenes)):
        path = work / f"{name}.npz"
        if not path.exists():
            work.mkdir(parents=True, exist_ok=True)
            made = render_scenes(split, range(count), tiled)
            with replacing(path) as part, part.open("wb") as file:
                np.savez(file, **vars(made))
        with np.load(path) as stored:
            sets.append(SceneBatch(**{name: stored[name] for name in stored.files}))
    return sets[0], sets[1]


def _process(number: int, processes: int, port: int, name: str, work: Path, target: Path) -> None:
    """Run one of `processes` processes that train together, with one thread."""
    torch.set_num_threads(1)
    where = f"tcp://127.0.0.1:{port}"
    dist.init_process_group(
        "gloo", init_method=where, rank=number, world_size=processes, timeout=timedelta(hours=3)
    )
    began = time.monotonic()

    def log(line: str) -> None:
        if number == 0:
            print(f"{time.monotonic() - began:6.0f} s  {line}", flush=True)

    BUILDERS[name](work, target, log)
    dist.destroy_process_group()


def main() -> None:
    parser = argparse.ArgumentParser(description="Rebuild a shipped model.")
    parser.add_argument("--model", choices=BUILDERS, default="micro", help="the twins start from micro")
    parser.add_argument("--work", type=Path, help="checkpoints and caches; build/MODEL by default")
    parser.add_argument("--out", type=Path, help="where the model is written; the shipped weights by default")
    parser.add_argument("--processes", type=int, default=2, help="a thread each; they share every batch")
    given = parser.parse_args()
    work, out = given.work or Path("build") / given.model, given.out or WEIGHTS / given.model
    arguments = (given.processes, free_port(), given.model, work, out)
    multiprocessing.spawn(_process, arguments, nprocs=given.processes)
    print(f"saved in {out}")


if __name__ == "__main__":
    main()
