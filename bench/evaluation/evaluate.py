"""Evaluate one method at one budget on one benchmark: answers, scores, kept tokens and costs."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import partial
from statistics import fmean

import numpy as np
import torch

from baselines import KeepAll
from bench.evaluation.batches import Batches
from bench.evaluation.budget import flops_of
from bench.evaluation.ledger import DecoderShape, Ledger
from bench.tasks import Task
from compress.attach.prefill import Record
from compress.attach.session import attach
from compress.attach.transfer import check_twins, choose
from compress.base import Positions, Selector
from compress.budget import Match, solve
from compress.keep import Keep, Ratio, count_of, read_keep
from compress.models.loading import MLLM
from compress.progress import Progress
from compress.samples import Sample

ROUNDS = 3  # of measuring the selection cost and solving for the budget again
COUNTED = 16  # samples on which that cost is measured, for any batch size


@dataclass(frozen=True)
class Stage:
    """The remaining tokens of a sample at one depth: untouched indices, -1 for a token of the whole image.

    `merged` are the indices of `kept` (-1 excluded) whose value changed at this depth or before: each
    represents several tokens.
    """

    depth: int
    kept: tuple[int, ...]
    merged: tuple[int, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """The result of one run: per sample in the samples' order, per unit (see `Task`), and means.

    `kept` holds the untouched indices of the tokens after the last stage, -1 for a token that represents the
    whole image; `path` holds all stages up to there, and is empty if all tokens were kept. A method that
    draws at random runs several times: credits, sums, costs and sub-scores are means over its draws, and
    values per sample are those of the first draw.
    """

    task: str
    samples: tuple[str, ...]  # ids
    predictions: tuple[str, ...]
    correct: tuple[float, ...]  # credit of each prediction, 0 to 1
    kept: tuple[tuple[int, ...], ...]  # per sample
    path: tuple[tuple[Stage, ...], ...]  # per sample
    credit: tuple[float, ...]  # [U] compared by paired tests
    sums: tuple[tuple[float, ...], ...]  # [U, k] statistics that the score is computed from
    images: tuple[str, ...]  # [U] name of each unit's image, the same in all tasks
    score: float  # percent
    ledger: Ledger | None  # means over samples, selection over the first few; None if not counted
    stages: tuple[int, ...]  # depths at which tokens were dropped
    subscores: Mapping[str, float] = field(default_factory=dict)  # parts and rates; see `Task.subscores`
    batch: int | None = None  # samples that went through the model at a time, at the end
    draws: tuple[float, ...] = ()  # the score of each draw; one score if the method does not draw
    seconds: float | None = field(default=None, compare=False)  # None if it was read from a folder

    @property
    def entering(self) -> Sequence[float]:
        """Visual tokens entering each decoder layer."""
        return self.cost.entering

    @property
    def tokens(self) -> float:
        """Equivalent tokens: visual tokens per decoder layer."""
        return self.cost.average

    @property
    def left(self) -> float:
        """Visual tokens after the last stage."""
        return fmean(map(len, self.kept))

    @property
    def cost(self) -> Ledger:
        """The ledger of the run; its tokens must have been counted."""
        assert self.ledger is not None
        return self.ledger


@dataclass(frozen=True)
class AnsweredPart:
    """The answers to samples in one draw, in the samples' order, with a record of each image's tokens."""

    predictions: Sequence[str]
    records: Sequence[Record]
    batch: int  # samples that went through the model at a time, at the end
    seconds: float


def evaluate(
    mllm: MLLM,
    task: Task,
    samples: Sequence[Sample],
    selector: Selector | None = None,
    keep: Keep | str | float | None = None,
    *,
    batch: int | Batches = 16,
    match: Match = "equivalent",
    positions: Positions | None = None,
    source: MLLM | None = None,
    progress: Progress | None = None,
) -> Outcome:
    """Answer every sample greedily and score the answers; without a selector the untouched model answers.

    `keep` is the budget, a count of visual tokens or a ratio of each image's tokens (`compress.keep`);
    `match` sets its meaning (`compress.budget`). None keeps all tokens.
    `batch` samples go through the model at a time; this affects only speed and memory, and `Batches` may
    halve it. `positions` are by default the method's own. A method that draws at random is run
    `selector.draws` times. With `source` the method selects on that model, and its selection is applied to
    `mllm` (`compress.attach.transfer`). ValueError for an impossible budget.
    """
    if not samples:
        raise ValueError(f"{task.name}: no samples to evaluate; ask for at least one")
    if source:
        check_twins(source, mllm)
        check_match_of_twins(match)
    chosen = selector or KeepAll()  # records the trace and changes nothing
    budget = mllm.visual_tokens if keep is None else read_keep(keep)
    batches = Batches(batch) if isinstance(batch, int) else batch
    started = time.perf_counter()
    asked, held = spend(mllm, samples, chosen, budget, match, batches)
    made: list[AnsweredPart] = []
    for number in range(chosen.draws):
        before = number * len(samples)

        def report(done: int, total: int, before: int = before) -> None:
            if progress:
                progress(before + done, total * chosen.draws)

        made.append(
            answer(
                mllm, task, samples, chosen.drawn(number), asked, batches=batches, match=held,
                positions=positions, source=source, before=before, progress=report,
            )
        )  # fmt: skip
    return replace(score(mllm, task, samples, made), seconds=time.perf_counter() - started)


def check_match_of_twins(match: Match) -> None:
    """ValueError for a cost that cannot be matched when another model selects."""
    if match == "flops":
        raise ValueError(
            "--match flops: the cost of selecting on another model cannot be counted here; choose "
            "equivalent or tokens"
        )


def answer(
    mllm: MLLM,
    task: Task,
    samples: Sequence[Sample],
    selector: Selector,
    keep: Keep,
    *,
    batches: Batches,
    match: Match,
    positions: Positions | None = None,
    source: MLLM | None = None,
    before: int = 0,
    progress: Progress | None = None,
) -> AnsweredPart:
    """Answer samples greedily under one draw of a method, at a budget from `spend`.

    `before` is the number of earlier answers in the same evaluation: FLOPs are counted for the first ones
    only.
    """
    started = time.perf_counter()
    predictions: list[str] = []
    records: list[Record] = []

    def ask(part: Sequence[Sample]) -> tuple[list[str], list[Record]]:
        images = [one.visual_at(mllm.image_side) for one in part]
        questions = [one.question for one in part]
        acting = selector
        if source:
            acting = choose(source, images, questions, selector, keep, mllm.layers, match)
        counted = before + len(records) < COUNTED  # counting takes as long as selecting, on small models
        with attach(mllm, acting, keep, match=match, positions=positions, count_flops=counted) as trace:
            said = mllm.answer(images, questions, max_new_tokens=task.max_new_tokens)
        return said, trace.samples

    for said, traced in batches.over(samples, ask):
        predictions += said
        records += traced
        if progress:
            progress(len(predictions), len(samples))
    return AnsweredPart(predictions, records, batches.size, time.perf_counter() - started)


def score(mllm: MLLM, task: Task, samples: Sequence[Sample], made: Sequence[AnsweredPart]) -> Outcome:
    """Score the answers to all samples: the first draw's in the samples' order, then the next draw's.

    The model is not run; `mllm` only provides the shape of the decoder.
    """
    predictions = [said for one in made for said in one.predictions]
    records = [record for one in made for record in one.records]
    count = len(samples)
    drawn = [predictions[start : start + count] for start in range(0, len(predictions), count)]
    credit = np.mean([task.credit(samples, said) for said in drawn], axis=0)
    each = [task.statistics(samples, said) for said in drawn]
    sums = np.mean(each, axis=0)
    subscores = [task.subscores(samples, said) for said in drawn]
    pairs = zip(samples, drawn[0], strict=True)
    return Outcome(
        task=task.name,
        samples=tuple(one.id for one in samples),
        predictions=tuple(drawn[0]),
        correct=tuple(float(task.correct(one, said)) for one, said in pairs),
        kept=tuple(map(_kept, records[:count])),
        path=tuple(map(path, records[:count])),
        credit=tuple(credit.tolist()),
        sums=tuple(map(tuple, sums.tolist())),
        images=task.images(samples),
        score=float(task.value(sums.sum(0))),
        ledger=_ledger(mllm, records),
        stages=tuple(sorted({depth for record in records for depth in record.kept})),
        seconds=sum(one.seconds for one in made),
        subscores={name: fmean(one[name] for one in subscores) for name in subscores[0]},
        batch=min(one.batch for one in made),
        draws=tuple(float(task.value(one.sum(0))) for one in each),
    )


def spend(
    mllm: MLLM, samples: Sequence[Sample], selector: Selector, keep: Keep, match: Match, batches: Batches
) -> tuple[Keep, Match]:
    """Return the budget and its meaning for `attach` at which `selector` costs as much as `keep` tokens.

    For matched FLOPs the count (for a ratio, the share that equals this count) is solved for the mean image,
    prompt and selection cost of the first of `samples`. The selection cost depends on the number of kept
    tokens, so measuring the cost and solving for the count alternate until the count no longer changes.
    ValueError for a budget out of reach.
    """
    if match != "flops":
        check_reach(mllm, selector, keep, match, partial(largest_image, mllm, samples))
        return keep, match

    def probe(tried: Selector, last: Keep) -> Ledger:
        parts = batches.over(samples[:COUNTED], lambda part: _prefill(mllm, part, tried, last))
        return _ledger(mllm, [record for records in parts for record in records])

    untouched = probe(KeepAll(), mllm.visual_tokens)
    tokens = round(untouched.average)
    if count_of(keep, tokens) >= tokens:
        return keep, "tokens"
    flops = flops_of(DecoderShape.of(mllm.decoder.config), untouched.text)

    def solved(own: float = 0.0) -> Keep:
        last = solve(selector, tokens, keep, mllm.layers, match, flops, own)
        return Ratio(Fraction(last, tokens)) if isinstance(keep, Ratio) else last

    last = solved()
    for _ in range(ROUNDS):
        again = solved(probe(selector, last).selection)
        if again == last:
            break
        last = again
    return last, "tokens"


def check_reach(mllm: MLLM, selector: Selector, keep: Keep, match: Match, largest: Callable[[], int]) -> None:
    """ValueError for a budget out of reach.

    If the number of tokens depends on the image size, a budget that fails for `mllm.visual_tokens` is checked
    again for `largest`, the tokens of the largest image at hand: `attach` applies the budget to each image
    and video.
    """
    flops, most = flops_of(DecoderShape.of(mllm.decoder.config)), mllm.visual_tokens
    try:
        solve(selector, most, keep, mllm.layers, match, flops)
    except ValueError:
        if not mllm.free_size or count_of(keep, most) > most and not mllm.video_arguments:
            raise
        tokens = largest()
        asked = keep if isinstance(keep, Ratio) else min(keep, tokens)
        solve(selector, tokens, asked, mllm.layers, match, flops)


def whole_of(mllm: MLLM, data: Mapping[Task, Sequence[Sample]]) -> int:
    """Visual tokens of an image, or the maximum over the first videos of the tasks about videos."""
    first = [samples[0].visual_at(mllm.image_side) for task, samples in data.items() if task.videos]
    return max(map(mllm.tokens_of, first), default=mllm.visual_tokens)


def largest_image(mllm: MLLM, samples: Sequence[Sample]) -> int:
    """Visual tokens of the largest image of the samples."""
    return max(mllm.tokens_of(one.visual_at(mllm.image_side)) for one in samples)


@torch.no_grad()
def _prefill(mllm: MLLM, samples: Sequence[Sample], selector: Selector, last: Keep) -> list[Record]:
    """The records of one prefill, with the FLOPs of selection counted."""
    pictures = [one.visual_at(mllm.image_side) for one in samples]
    inputs = mllm.prepare(pictures, [one.question for one in samples])
    with attach(mllm, selector, last, match="tokens", count_flops=True) as trace:
        mllm.model(**inputs)
    return trace.samples


def _ledger(mllm: MLLM, records: Sequence[Record]) -> Ledger:
    return Ledger.mean(DecoderShape.of(mllm.decoder.config), records, COUNTED)


def _kept(record: Record) -> tuple[int, ...]:
    return tuple(record.kept[max(record.kept)]) if record.kept else tuple(range(record.tokens))


def path(record: Record) -> tuple[Stage, ...]:
    """The stages of one image, from the first depth to the last."""
    merged: set[int] = set()
    stages = []
    for depth in sorted(record.kept):
        kept = record.kept[depth]
        merged |= {index for index, new in zip(kept, record.merged[depth], strict=True) if new}
        stages.append(
            Stage(depth, tuple(kept), tuple(index for index in kept if index >= 0 and index in merged))
        )
    return tuple(stages)
