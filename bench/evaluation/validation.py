"""Validation: the kept checkpoint is the one that answers best on a validation task (paper Appendix A)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from bench.evaluation.evaluate import evaluate
from bench.tasks import Task
from bench.tasks.load import load_tasks
from compress.compressor.evocomp import EvoComp
from compress.compressor.network import Compressor
from compress.keep import Keep
from compress.micro.worlds import world_of
from compress.models.loading import MLLM
from compress.samples import Sample


def validator(
    mllm: MLLM, task: str, n: int, keep: Keep, data: str | None = None
) -> Callable[[Compressor], float]:
    """Return a function from a compressor to its score in percent on `n` validation questions of a task.

    `keep` is the budget. The questions are the miniature's, or those of the folder of benchmarks `data`.
    ValueError for unknown tasks and bad data.
    """
    ((bench, samples),) = load_tasks([task], n, "val", data=data, world=world_of(mllm.name)).items()
    return scored(mllm, bench, samples, keep)


def scored(mllm: MLLM, task: Task, samples: Sequence[Sample], keep: Keep) -> Callable[[Compressor], float]:
    """Return a function from a compressor to its score in percent on these samples, at the budget `keep`."""
    return lambda compressor: evaluate(mllm, task, samples, EvoComp(compressor), keep).score
