"""One sample under a method, its groups, and a training's curves, for figures and the app."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import ConfigDict, NonNegativeFloat, ValidationError

from baselines import KeepAll
from bench.evaluation.comparison import VANILLA
from bench.evaluation.evaluate import path
from bench.report.figures import Answered
from bench.tasks.base import normal
from compress.attach.session import attach
from compress.base import Selector
from compress.budget import Match
from compress.documents import Document, Positive, read_text, said
from compress.keep import Keep
from compress.labels.single import group_tokens
from compress.models.loading import MLLM
from compress.samples import Sample
from compress.training.curves import CURVES
from evosearch import Grouping


class _EpochDocument(Document):
    """A row of CURVES; its numbers are parsed from text."""

    model_config = ConfigDict(strict=False, extra="forbid")

    epoch: Positive
    rate: NonNegativeFloat
    loss: float
    score: float
    seconds: NonNegativeFloat


def look(
    mllm: MLLM, sample: Sample, method: str, selector: Selector, keep: Keep, *,
    match: Match = "equivalent", max_new_tokens: int = 16,
) -> Answered:  # fmt: skip
    """The result of a method on one sample; credit: whether the answer is one of the sample's, if any."""
    with attach(mllm, selector, keep, match=match) as trace:
        (said,) = mllm.answer(
            [sample.visual_at(mllm.image_side)], [sample.question], max_new_tokens=max_new_tokens
        )
    credit = float(normal(said) in map(normal, sample.answers)) if sample.answers else None
    return Answered(method, keep, said, credit, path(trace.samples[0]))


def looks(
    mllm: MLLM, sample: Sample, selectors: Mapping[str, Selector], keeps: Sequence[Keep]
) -> tuple[list[Answered], dict[str, str]]:
    """The untouched model's answer to one sample, and those under every method at every budget.

    The second value names the runs that are impossible, with the reason.
    """
    found, problems = [look(mllm, sample, VANILLA, KeepAll(), mllm.visual_tokens)], {}
    for spec, selector in selectors.items():
        for keep in keeps:
            try:
                found.append(look(mllm, sample, spec, selector, keep))
            except ValueError as problem:
                problems[f"{spec} at {keep}"] = str(problem)
    return found, problems


def strange_words(mllm: MLLM, question: str) -> list[str]:
    """Words of the question that the model's tokenizer does not know."""
    tokenizer = mllm.processor.tokenizer
    return [
        word
        for word in question.split()
        if tokenizer.unk_token_id in tokenizer(word, add_special_tokens=False)["input_ids"]
    ]


def spaces(mllm: MLLM, sample: Sample, groupers: Sequence[str], keep: Keep, seed: int) -> dict[str, Grouping]:
    """The groups of the sample's visual tokens by each grouper, given as `name:option=value,...`."""
    embedded = mllm.embed(sample.visual_at(mllm.image_side), sample.question, "")
    return {spec: group_tokens(mllm, embedded, keep, spec, seed) for spec in groupers}


def curves(folder: Path) -> list[dict[str, float]]:
    """The epochs of a training, with loss, score and other values; ValueError if there is none."""
    file = folder / CURVES
    if not file.exists():
        raise ValueError(f"{folder} has no {CURVES}: give folders that evocomp train --out wrote")
    found = []
    for number, row in enumerate(csv.DictReader(io.StringIO(read_text(file))), 1):
        try:
            found.append(_EpochDocument.model_validate(row).model_dump())
        except ValidationError as problem:
            raise ValueError(f"{file}, epoch {number}: {said(problem)}") from problem
    if not found:
        raise ValueError(f"{file}: no epoch is finished there")
    return found
