"""Tasks by name with their samples: the miniatures, or a folder of benchmarks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from bench.tasks import TASKS, VIDEOS
from bench.tasks.base import PromptStyle, Task
from bench.tasks.folder import HUB, MANIFEST, Manifest
from compress.micro.worlds import MICRO, VIDEO, World
from compress.samples import Sample
from evosearch.registry import pick, unknown

QUESTIONS = 400  # questions of a miniature by default
MICRO_SPLITS = ("test", "val")


def load_tasks(
    specs: Sequence[str],
    n: int | None = None,
    split: str | None = None,
    *,
    data: str | None = None,
    protocol: str | None = None,
    labelled: bool = True,
    world: World = MICRO,
) -> dict[Task, list[Sample]]:
    """Load tasks by `name` or `name:option=value,...` with the samples of `n` questions each, in this order.

    Without `data`, load miniatures about scenes of `world` (default: 400 questions and split test); tasks
    about videos have clips of their own world. With `data`, load the folder's or hub's samples (default: all)
    under `protocol` (default: the protocol in the folder's manifest, else llava).
    ValueError for unknown names, protocols and splits, for repeated tasks, for bad data (see `Task.load`),
    and, if scores are needed (`labelled`), for splits without public labels.
    """
    if n is not None and n < 1:
        raise ValueError(f"n={n}: ask for at least one question per task")
    if data is None:
        if protocol not in (None, "micro"):
            raise ValueError(
                f"protocol {protocol} is for the benchmarks themselves: give their folder with --data"
            )
        if split not in (None, *MICRO_SPLITS):
            raise ValueError(f"unknown split '{split}' of the miniatures: choose {' or '.join(MICRO_SPLITS)}")
        tasks = [pick(TASKS, spec, "task") for spec in specs]
        if real := [task for task in tasks if task.protocol != "micro" or task.split]:
            raise ValueError(f"task '{real[0].name}': protocol and split go with --data; leave them out")
    else:
        asked = protocol or (None if data.startswith(HUB) else _protocol_of(data)) or "llava"
        tasks = [pick(TASKS, spec, "task", protocol=asked, split=split) for spec in specs]
    names = [task.name for task in tasks]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"task '{min(twice)}' is named twice: ask it under one set of options at a time")
    if data is None:
        still = [task.name for task in tasks if not task.videos]
        if still and world is VIDEO:
            raise ValueError(
                f"task '{still[0]}' is about images, and this model was trained on videos: choose of "
                f"{', '.join(VIDEOS)}"
            )
        worlds = {task: VIDEO if task.videos else world for task in tasks}
        return {task: task.micro(n or QUESTIONS, split or "test", worlds[task]) for task in tasks}
    loaded = {task: task.load(data, n) for task in tasks}
    for task, samples in loaded.items():
        if not samples:
            raise ValueError(
                f"{data} has no questions of {task.name}, split {task.part}: fetch its files again"
            )
        if labelled and not samples[0].answers:
            public = [name for name in task.splits if "test" not in name or name == "testdev"]
            raise ValueError(
                f"the labels of {task.name}, split {task.part}, are not public: write a file for its server "
                f"with evocomp eval --submission DIR, or choose split {' or '.join(public)}"
            )
    return loaded


def _protocol_of(data: str) -> str | None:
    """The protocol in the manifest of a folder of benchmarks; ValueError if it names none of ours."""
    found = Manifest.of(data).protocol
    if found is not None and found not in get_args(PromptStyle):
        raise ValueError(f"{Path(data) / MANIFEST}: {unknown('protocol', found, get_args(PromptStyle))}")
    return found
