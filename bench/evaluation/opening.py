"""Open models, budgets, images and questions by the values of options. Heavy imports happen on first use."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from bench.evaluation.environment import check_device

if TYPE_CHECKING:
    from PIL.Image import Image

    from compress.keep import Keep
    from compress.models.loading import MLLM, Anyres


def load_model(model: str, device: str = "cpu", dtype: str = "float32", anyres: Anyres = "native") -> MLLM:
    """Load a model onto a device, and silence the warnings of transformers."""
    import torch

    from compress.models.loading import load, quiet

    quiet()
    check_device(device)
    return load(model, device=device, dtype=getattr(torch, dtype), anyres=anyres)


def shaped(shape: str, device: str, dtype: str, depth: int | None) -> MLLM:
    """Build a published architecture with random weights; ValueError if it does not fit into memory."""
    import torch

    from compress.models.loading import quiet
    from compress.models.shapes import build
    from compress.parallel.memory import ran_out

    quiet()
    check_device(device)
    try:
        return build(shape, device=device, dtype=getattr(torch, dtype), depth=depth)
    except (MemoryError, RuntimeError) as problem:
        if not ran_out(problem):
            raise
        raise ValueError(
            f"{shape} in {dtype} does not fit into the memory of {device}: choose --depth-slice N or bfloat16"
        ) from problem


def budget(keep: Keep | None, mllm: MLLM) -> Keep:
    """Check a budget; None: a ninth of each image's tokens. ValueError if no image has so many.

    Where the model reads videos any number may be meant.
    """
    from compress.keep import NINTH, count_of

    tokens = mllm.visual_tokens
    if keep is None:
        keep = NINTH.of(tokens) if mllm.one_size else NINTH
    if count_of(keep, tokens) > tokens and not mllm.video_arguments:
        raise ValueError(f"--keep {keep}: choose between 1 and the {tokens} visual tokens of {mllm.name}")
    return keep


def open_image(name: str, side: int = 0) -> Image:
    """Open an image file, or render a scene: `micro:SEED` or `busy:SEED`. ValueError if neither works.

    A scene is rendered for a model whose images are `side` pixels wide and high.
    """
    from compress.images import open_rgb

    kind, colon, seed = name.partition(":")
    if colon and kind in ("micro", "busy"):
        from compress.micro.worlds import WORLDS
        from compress.samples import only_image

        if not seed.isdecimal():
            raise ValueError(f"'{name}': write {kind}:SEED with a whole number, for instance {kind}:3")
        world = WORLDS[kind]
        return only_image(world.photograph(world.scene("test", int(seed))).at(side), name)
    if not Path(name).is_file():
        raise ValueError(
            f"there is no image at {name}: give an image file, or micro:SEED for a generated scene"
        )
    try:
        return open_rgb(Path(name), name)
    except ValueError as problem:
        raise ValueError(f"{problem}: give a PNG, JPEG or WebP file") from problem


def asked(question: str) -> str:
    """Return the question; ValueError if it is empty."""
    if not question.strip():
        raise ValueError("the question is empty: ask something about the image")
    return question


def by_source(method: str, source: str) -> str:
    """Name a method whose indices come from another model, `source`."""
    return f"{method} (indices from {Path(source).name})"
