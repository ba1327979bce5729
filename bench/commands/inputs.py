"""Open tasks or a folder of images from the values of options."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from evosearch.registry import specs

if TYPE_CHECKING:
    from bench.tasks import Task
    from compress.samples import Sample


def open_tasks(
    tasks: str, count: int | None, data: str | None, protocol: str | None, split: str | None, *,
    model: str = "micro", labelled: bool = True,
) -> dict[Task, list[Sample]]:  # fmt: skip
    """Load the tasks with their samples; miniatures come from the world that the model was trained on."""
    from bench.tasks import BENCHMARKS, VIDEOS
    from bench.tasks.load import load_tasks
    from compress.micro.worlds import VIDEO, world_of

    world = world_of(model)
    every = VIDEOS if world is VIDEO and data is None else BENCHMARKS
    wanted = ",".join(every) if tasks == "all" else tasks
    if not (named := specs(wanted)):
        raise ValueError(f"--tasks names nothing: write names with commas, or all ({', '.join(every)})")
    return load_tasks(named, count, split, data=data, protocol=protocol, labelled=labelled, world=world)


def open_folder(folder: Path, question: str, count: int) -> list[Sample]:
    """Samples with one question about each of the first `count` images of a folder, sorted by name.

    ValueError if the folder has no images or cannot be read.
    """
    from bench.evaluation.opening import asked
    from compress.images import SUFFIXES, open_rgb, pictures_of
    from compress.samples import Sample

    if not (paths := pictures_of(folder)[:count]):
        raise ValueError(f"{folder} has no images ({', '.join(SUFFIXES)}): give a folder with one or more")
    question = asked(question)
    return [Sample(path.name, open_rgb(path, str(path)), question, ()) for path in paths]
