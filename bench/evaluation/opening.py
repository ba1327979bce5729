"""Open models, budgets, images and questions from option values. Heavy imports happen on first use."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench.evaluation.environment import check_device

if TYPE_CHECKING:
    from PIL.Image import Image

    from compress.keep import Keep
    from compress.models.loading import MLLM, Anyres
    from compress.video import Visual


def load_model(model: str, device: str = "cpu", dtype: str = "float32", anyres: Anyres = "native") -> MLLM:
    """Load a model onto a device, and silence the warnings of transformers."""
    import torch

    from compress.models.loading import load, quiet

    quiet()
    check_device(device)
    return load(model, device=device, dtype=getattr(torch, dtype), anyres=anyres)


@dataclass(frozen=True)
class Loader:
    """A loader of a model for workers in other processes: calls `load_model` with each worker's device."""

    model: str
    device: str = "cpu"
    dtype: str = "float32"
    anyres: Anyres = "native"

    def __post_init__(self) -> None:
        from compress.models.loading import MODELS

        if self.model not in MODELS and Path(self.model).is_dir():  # workers may start in another folder
            object.__setattr__(self, "model", str(Path(self.model).absolute()))

    @property
    def kind(self) -> str:
        """The kind of the device, without its number."""
        return self.device.partition(":")[0]

    def __call__(self, device: str | None = None) -> MLLM:
        return load_model(self.model, device or self.device, self.dtype, self.anyres)


def shaped(shape: str, device: str, dtype: str, depth: int | None) -> MLLM:
    """Build a published architecture with random weights; ValueError if it does not fit into memory."""
    import torch

    from compress.memory import ran_out
    from compress.models.loading import quiet
    from compress.models.shapes import build

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
    """Check a budget; None: a ninth of each image's tokens. ValueError if no image has so many tokens.

    If the model reads videos, any number is accepted.
    """
    from compress.keep import NINTH, count_of

    tokens = mllm.visual_tokens
    if keep is None:
        keep = NINTH.of(tokens) if mllm.one_size else NINTH
    if count_of(keep, tokens) > tokens and not mllm.video_arguments:
        raise ValueError(f"--keep {keep}: choose between 1 and the {tokens} visual tokens of {mllm.name}")
    return keep


SUFFIXES = tuple(".mp4 .m4v .mov .mkv .webm .avi .ts .mpg .mpeg .wmv .flv .ogv".split())  # of videos


def open_visual(name: str, side: int = 0, frames: int | None = None, rate: float | None = None) -> Visual:
    """Open an image file or a video, or render a scene: `micro:SEED`, `busy:SEED` or `video:SEED`.

    A folder of pictures and a file with a video's suffix are videos; with `frames` or `rate` every file is
    read as a video, for instance a moving GIF. Frames are sampled as by `read_video`. A scene is rendered for
    a model whose images are `side` pixels wide and high. ValueError for anything else.
    """
    from compress.images import open_rgb
    from compress.video import read_video

    kind, _, seed = name.partition(":")
    if _is_scene(name):
        from compress.micro.worlds import WORLDS

        if not seed.isdecimal():
            raise ValueError(f"'{name}': write {kind}:SEED with a whole number, for instance {kind}:3")
        if frames or rate:
            raise ValueError(f"{name}: a scene has its own frames; leave out --frames and --rate")
        world = WORLDS[kind]
        return world.photograph(world.scene("test", int(seed))).at(side)
    path = Path(name)
    if frames or rate or path.is_dir() or path.suffix.lower() in SUFFIXES:
        return read_video(path, count=frames, rate=rate)
    if not path.is_file():
        raise ValueError(
            f"there is no image at {name}: give an image or video file, or micro:SEED for a generated scene"
        )
    try:
        return open_rgb(path, name)
    except ValueError as problem:
        raise ValueError(f"{problem}: give a PNG, JPEG or WebP file") from problem


def _is_scene(name: str) -> bool:
    return name.startswith(("micro:", "busy:", "video:"))


def drawn_at(name: str, visual: Visual, side: int) -> Visual:
    """Return `visual` for a model that sees `side` pixels: a scene is rendered again, a file is unchanged."""
    return open_visual(name, side) if _is_scene(name) else visual


def open_image(name: str, side: int = 0) -> Image:
    """Open an image as `open_visual` does; ValueError for a video."""
    from compress.samples import only_image

    return only_image(open_visual(name, side), name)


def told_video(visual: Visual, frames: int | None = None) -> str:
    """Describe the sampled frames of a video for users; empty for an image."""
    from compress.video import Video

    if not isinstance(visual, Video):
        return ""
    times, few = visual.times, frames and len(visual.times) < frames
    return (
        f"{len(times)} frames from {times[0]:.1f} to {times[-1]:.1f} s, {visual.step:.2f} s apart"
        f"{f' (it has no more; {frames} were asked for)' if few else ''}"
    )


def asked(question: str) -> str:
    """Return the question; ValueError if it is empty."""
    if not question.strip():
        raise ValueError("the question is empty: ask something about the image")
    return question


def by_source(method: str, source: str) -> str:
    """Name a method whose indices come from another model, `source`."""
    return f"{method} (indices from {Path(source).name})"
