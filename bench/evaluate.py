"""Answers of one method at one budget on one benchmark: scored, with what every sample kept and cost."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean

import torch

from baselines import KeepAll
from bench.budget import Footing, Match
from bench.ledger import Ledger, Shape
from bench.tasks import Task
from compress.attach import attach
from compress.base import Accounting, Positions, Selector
from compress.models import MLLM
from compress.prefill import Record
from compress.samples import Sample

Progress = Callable[[int, int], object]  # samples done, samples in all
ROUNDS = 3  # of measuring a choice's cost and solving for the budget again


@dataclass(frozen=True)
class Outcome:
    """What one run produced: per sample in the samples' order, per unit (see `Task`), and means.

    `kept` holds the untouched indices of the tokens after the last stage, -1 for a token that stands for the
    whole image.
    """

    task: str
    predictions: tuple[str, ...]
    correct: tuple[float, ...]  # credit of each prediction, 0 to 1
    kept: tuple[tuple[int, ...], ...]  # per sample
    credit: tuple[float, ...]  # [U] what paired tests compare
    sums: tuple[tuple[float, ...], ...]  # [U, k] what the score is a function of
    score: float  # percent
    ledger: Ledger  # means over samples; the cost of choosing is that of the first batch
    stages: tuple[int, ...]  # depths at which tokens were dropped
    seconds: float
    subscores: Mapping[str, float] = field(default_factory=dict)  # of parts, and rates; see `Task.subscores`

    @property
    def entering(self) -> Sequence[float]:
        """Visual tokens entering each decoder layer."""
        return self.ledger.entering

    @property
    def tokens(self) -> float:
        """Equivalent tokens: visual tokens per decoder layer."""
        return self.ledger.average

    @property
    def left(self) -> float:
        """Visual tokens after the last stage."""
        return fmean(map(len, self.kept))


def evaluate(
    mllm: MLLM,
    task: Task,
    samples: Sequence[Sample],
    selector: Selector | None = None,
    keep: int | None = None,
    *,
    batch: int = 16,
    match: Match = "equivalent",
    positions: Positions | None = None,
    progress: Progress | None = None,
) -> Outcome:
    """Answer every sample greedily and score the answers; without a selector the untouched model answers.

    `keep` is the budget in visual tokens, spent as `match` has it (`bench.budget`); None keeps all.
    `positions` are the method's own by default. ValueError for a budget that is impossible.
    """
    if not samples:
        raise ValueError(f"{task.name}: no samples to evaluate; ask for at least one")
    chosen = selector or KeepAll()  # keeps the trace, changes no bit
    budget = mllm.visual_tokens if keep is None else keep
    started = time.perf_counter()
    asked, accounting = spend(mllm, samples[:batch], chosen, budget, match)
    predictions: list[str] = []
    records: list[Record] = []
    for start in range(0, len(samples), batch):
        part = samples[start : start + batch]
        counted = start == 0  # counting takes as long as choosing, on small models
        with attach(
            mllm, chosen, asked, accounting=accounting, positions=positions, count_flops=counted
        ) as trace:
            predictions += mllm.answer(
                [s.image_at(mllm.image_side) for s in part],
                [s.question for s in part],
                max_new_tokens=task.max_new_tokens,
            )
        records += trace.samples
        if progress:
            progress(len(predictions), len(samples))
    seconds = time.perf_counter() - started
    sums = task.statistics(samples, predictions)
    pairs = zip(samples, predictions, strict=True)
    return Outcome(
        task=task.name,
        predictions=tuple(predictions),
        correct=tuple(float(task.correct(one, said)) for one, said in pairs),
        kept=tuple(map(_kept, records)),
        credit=tuple(task.credit(samples, predictions).tolist()),
        sums=tuple(map(tuple, sums.tolist())),
        score=float(task.value(sums.sum(0))),
        ledger=_ledger(mllm, records),
        stages=tuple(sorted({depth for record in records for depth in record.kept})),
        seconds=seconds,
        subscores=task.subscores(samples, predictions),
    )


def spend(
    mllm: MLLM, samples: Sequence[Sample], selector: Selector, keep: int, match: Match = "equivalent"
) -> tuple[int, Accounting]:
    """What `attach` is asked for so that `selector` spends what `keep` tokens cost: a count and its meaning.

    Where FLOPs are matched the count is solved, for the largest image of the model; prompt length and the
    cost of choosing are measured on `samples`. That cost depends on how many tokens stay, so it is measured
    and the count solved in turn until it stands. ValueError for a budget out of reach.
    """
    shape, tokens = Shape.of(mllm.decoder.config), mllm.visual_tokens
    if match != "flops":
        Footing(match, tokens, shape).solve(selector, keep)
        return keep, "average" if match == "equivalent" else "nominal"
    footing = Footing(match, tokens, shape, _probe(mllm, samples, KeepAll(), tokens).text)
    last = footing.solve(selector, keep)
    for _ in range(ROUNDS):
        solved = footing.solve(selector, keep, _probe(mllm, samples, selector, last).selection)
        if solved == last:
            break
        last = solved
    return last, "nominal"


@torch.no_grad()
def _probe(mllm: MLLM, samples: Sequence[Sample], selector: Selector, last: int) -> Ledger:
    """The ledger of one prefill."""
    pictures = [one.image_at(mllm.image_side) for one in samples]
    inputs = mllm.prepare(pictures, [one.question for one in samples])
    with attach(mllm, selector, last, accounting="nominal", count_flops=True) as trace:
        mllm.model(**inputs)
    return _ledger(mllm, trace.samples)


def _ledger(mllm: MLLM, records: Sequence[Record]) -> Ledger:
    def mean(rows: Sequence[Sequence[int]]) -> tuple[float, ...]:
        return tuple(fmean(column) for column in zip(*rows, strict=True))

    return Ledger(
        Shape.of(mllm.decoder.config),
        entering=mean([record.entering for record in records]),
        text=fmean(record.text for record in records),
        cached=mean([record.cached for record in records]),
        selection=fmean(each.selection_flops for each in records if each.selection_flops is not None),
    )


def _kept(record: Record) -> tuple[int, ...]:
    return tuple(record.kept[max(record.kept)]) if record.kept else tuple(range(record.tokens))
