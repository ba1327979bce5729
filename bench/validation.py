"""The checkpoint that is kept is the one that answers best on a validation task (paper Appendix A)."""

from __future__ import annotations

from collections.abc import Callable

from bench.evaluate import evaluate
from bench.tasks import TASKS
from compress.evocomp import EvoComp
from compress.keep import Keep
from compress.models import MLLM
from compress.network import Compressor
from evosearch.registry import find


def validator(mllm: MLLM, task: str, n: int, keep: Keep) -> Callable[[Compressor], float]:
    """Score of a compressor at the budget `keep` on `n` validation samples of a task, in percent."""
    bench = find(TASKS, task, "task")()
    samples = bench.micro(n, "val")
    return lambda compressor: evaluate(mllm, bench, samples, EvoComp(compressor), keep).score
