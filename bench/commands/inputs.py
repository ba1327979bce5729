"""Open tasks by the values of options."""

from __future__ import annotations

from typing import TYPE_CHECKING

from evosearch.registry import specs

if TYPE_CHECKING:
    from bench.tasks import Task
    from compress.samples import Sample


def open_tasks(
    tasks: str, count: int | None, data: str | None, protocol: str | None, split: str | None, *,
    model: str = "micro", labelled: bool = True,
) -> dict[Task, list[Sample]]:  # fmt: skip
    """Load the tasks with their samples; the miniatures show the world that the model was trained on."""
    from bench.tasks import BENCHMARKS, VIDEOS
    from bench.tasks.load import load_tasks
    from compress.micro.worlds import VIDEO, world_of

    world = world_of(model)
    every = VIDEOS if world is VIDEO and data is None else BENCHMARKS
    wanted = ",".join(every) if tasks == "all" else tasks
    if not (named := specs(wanted)):
        raise ValueError(f"--tasks names nothing: write names with commas, or all ({', '.join(every)})")
    return load_tasks(named, count, split, data=data, protocol=protocol, labelled=labelled, world=world)
