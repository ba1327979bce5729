"""What commands open: models, images, tasks and batches, from the values of their options."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from evosearch.registry import specs

if TYPE_CHECKING:
    from bench.evaluation.batches import Batches
    from bench.tasks import Task
    from compress.models.loading import MLLM
    from compress.samples import Sample


def open_tasks(
    tasks: str, count: int | None, data: str | None, protocol: str | None, split: str | None, *,
    model: str = "micro", labelled: bool = True,
) -> dict[Task, list[Sample]]:  # fmt: skip
    """The tasks that the options name with their samples; miniatures are about the world of the model."""
    from bench.tasks import BENCHMARKS
    from bench.tasks.load import load_tasks
    from compress.micro.worlds import world_of

    wanted = ",".join(BENCHMARKS) if tasks == "all" else tasks
    if not (named := specs(wanted)):
        raise ValueError(f"--tasks names nothing: write names with commas, or all ({', '.join(BENCHMARKS)})")
    return load_tasks(
        named, count, split, data=data, protocol=protocol, labelled=labelled, world=world_of(model)
    )


def open_batches(size: int | None, mllm: MLLM) -> Batches:
    """Batches of the size that --batch names, or by the model's device."""
    from bench.evaluation.batches import Batches

    return Batches(size) if size else Batches.for_device(mllm.model.device)


def by_source(method: str, source: str) -> str:
    """The name of a method whose indices come from another model."""
    return f"{method} (indices from {Path(source).name})"
