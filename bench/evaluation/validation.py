"""The checkpoint that is kept is the one that answers best on a validation task (paper Appendix A)."""

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
    """Score of a compressor at the budget `keep` on `n` validation questions of a task, in percent.

    They are the miniature's, or those of the folder of benchmarks `data`. ValueError for unknown tasks and
    bad data.
    """
    ((bench, samples),) = load_tasks([task], n, "val", data=data, world=world_of(mllm.name)).items()
    return scored(mllm, bench, samples, keep)


def scored(mllm: MLLM, task: Task, samples: Sequence[Sample], keep: Keep) -> Callable[[Compressor], float]:
    """Score of a compressor at the budget `keep` on these samples, in percent."""
    return lambda compressor: evaluate(mllm, task, samples, EvoComp(compressor), keep).score
