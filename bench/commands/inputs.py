"""What commands open: models, images, tasks and batches, from the values of their options."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from bench.evaluation.environment import check_device
from evosearch.registry import specs

if TYPE_CHECKING:
    from PIL.Image import Image

    from bench.evaluation.batches import Batches
    from bench.tasks import Task
    from compress.keep import Keep
    from compress.models.loading import MLLM, Anyres
    from compress.samples import Sample


def open_tasks(
    tasks: str, count: int | None, data: str | None, protocol: str | None, split: str | None, *,
    labelled: bool = True,
) -> dict[Task, list[Sample]]:  # fmt: skip
    """The tasks that the options name with their samples."""
    from bench.tasks import BENCHMARKS
    from bench.tasks.load import load_tasks

    wanted = ",".join(BENCHMARKS) if tasks == "all" else tasks
    if not (named := specs(wanted)):
        raise ValueError(f"--tasks names nothing: write names with commas, or all ({', '.join(BENCHMARKS)})")
    return load_tasks(named, count, split, data=data, protocol=protocol, labelled=labelled)


def open_batches(size: int | None, mllm: MLLM) -> Batches:
    """Batches of the size that --batch names, or by the model's device."""
    from bench.evaluation.batches import Batches

    return Batches(size) if size else Batches.for_device(mllm.model.device)


def load_model(model: str, device: str = "cpu", dtype: str = "float32", anyres: Anyres = "native") -> MLLM:
    """The model that the options name; transformers keeps quiet from here on."""
    import torch

    from compress.models.loading import load, quiet

    quiet()
    check_device(device)
    return load(model, device=device, dtype=getattr(torch, dtype), anyres=anyres)


def open_image(name: str, side: int = 0) -> Image:
    """An image file, or `micro:SEED` for a scene of the micro world; ValueError that says what is wrong.

    A scene is photographed for a model that sees `side` pixels a side.
    """
    from bench.tasks.images import open_rgb

    if name.startswith("micro:"):
        from compress.micro.world import Photograph, scene

        seed = name.removeprefix("micro:")
        if not seed.isdecimal():
            raise ValueError(f"'{name}': write micro:SEED with a whole number, for instance micro:3")
        return Photograph(scene("test", int(seed))).at(side)
    if not Path(name).is_file():
        raise ValueError(f"there is no image at {name}: give an image file, or micro:SEED for a made scene")
    try:
        return open_rgb(Path(name), name)
    except ValueError as problem:
        raise ValueError(f"{problem}: give a PNG, JPEG or WebP file") from problem


def asked(question: str) -> str:
    """The question; ValueError if it is empty."""
    if not question.strip():
        raise ValueError("the question is empty: ask something about the image")
    return question


def budget(keep: Keep | None, mllm: MLLM) -> Keep:
    """--keep, a ninth of each image's visual tokens by default; ValueError if the model has not so many."""
    from compress.keep import NINTH, count_of

    tokens = mllm.visual_tokens
    if keep is None:
        keep = NINTH.of(tokens) if mllm.one_size else NINTH
    if count_of(keep, tokens) > tokens:
        raise ValueError(f"--keep {keep}: choose between 1 and the {tokens} visual tokens of {mllm.name}")
    return keep


def by_source(method: str, source: str) -> str:
    """The name of a method whose indices come from another model."""
    return f"{method} (indices from {Path(source).name})"
