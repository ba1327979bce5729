"""Accuracy of one method at one budget on one benchmark, with a record for every sample."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from baselines import KeepAll
from bench.tasks import Task
from compress.attach import attach
from compress.base import Accounting, Selector
from compress.models import MLLM
from compress.samples import Sample

Progress = Callable[[int, int], object]  # samples done, samples in all


@dataclass(frozen=True)
class Outcome:
    """What one run produced.

    `kept` holds the untouched indices of the tokens after the last stage, -1 for a token that stands for the
    whole image; `entering` the visual tokens entering each decoder layer, averaged over samples.
    """

    task: str
    predictions: tuple[str, ...]
    score: float  # percent
    entering: tuple[float, ...]  # [layers]
    kept: tuple[tuple[int, ...], ...]  # per sample
    text: float  # prompt tokens that are not visual, mean over samples
    seconds: float

    @property
    def tokens(self) -> float:
        """Visual tokens per decoder layer, the mean that budgets are compared at."""
        return sum(self.entering) / len(self.entering)


def evaluate(
    mllm: MLLM,
    task: Task,
    samples: Sequence[Sample],
    selector: Selector | None = None,
    keep: int | None = None,
    *,
    batch: int = 16,
    accounting: Accounting = "average",
    progress: Progress | None = None,
) -> Outcome:
    """Answer every sample greedily and score the answers; without a selector the untouched model answers.

    `keep` is the visual tokens per decoder layer under `accounting` (see `compress.base.plan`).
    """
    if not samples:
        raise ValueError(f"{task.name}: no samples to evaluate; ask for at least one")
    predictions: list[str] = []
    started = time.perf_counter()
    chosen = selector or KeepAll()  # keeps the trace, changes no bit
    budget = mllm.visual_tokens if keep is None else keep
    with attach(mllm, chosen, budget, accounting=accounting) as trace:
        for start in range(0, len(samples), batch):
            part = samples[start : start + batch]
            predictions += mllm.answer(
                [s.image for s in part], [s.question for s in part], max_new_tokens=task.max_new_tokens
            )
            if progress:
                progress(len(predictions), len(samples))
    seconds = time.perf_counter() - started
    records = trace.samples
    return Outcome(
        task=task.name,
        predictions=tuple(predictions),
        score=task.score(samples, predictions),
        entering=tuple(
            sum(column) / len(records) for column in zip(*(r.entering for r in records), strict=True)
        ),
        kept=tuple(tuple(r.kept[max(r.kept)]) if r.kept else tuple(range(r.tokens)) for r in records),
        text=sum(r.text for r in records) / len(records),
        seconds=seconds,
    )
