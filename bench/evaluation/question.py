"""The dependence of a method's selection on the question, from several questions about one image.

For scenes that our code renders, the visual tokens of the things in a question are known. For other images
only the overlap of the tokens kept for two questions is known.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Self

import numpy as np
from numpy.typing import NDArray

from bench.evaluation.stats import Interval, mean_interval
from compress.attach.session import attach
from compress.base import Scorer, Selector, View
from compress.keep import Keep
from compress.labels import Label
from compress.micro.worlds import scene_of
from compress.models.loading import MLLM
from compress.samples import Sample

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
COLUMNS = ("own", "other", "gain", "overlap", "asked", "area")
BATCH = 16


@dataclass(frozen=True)
class Heard:
    """The selection of one method for one sample: `kept` [N] as booleans, and a `score` [N] of every token.

    If a method only selects, the score is 1 for kept tokens and 0 for others. Tokens that represent the whole
    image are left out.
    """

    kept: Bools
    score: Floats

    @classmethod
    def of(cls, kept: Sequence[int], tokens: int) -> Self:
        """Build the selection that kept these indices out of `tokens`."""
        there = np.zeros(tokens, bool)
        there[[index for index in kept if index >= 0]] = True
        return cls(there, there.astype(float))


@dataclass(frozen=True)
class Sensitivity:
    """Means over questions with 95 % intervals over images; None if the things in the images are unknown.

    `own`: the AUC of a method's scores, for tokens of the things in the question against tokens of other
    things. `other`: the same tokens ranked by the scores for another question about the image. `gain`: the
    difference of the two, which is the effect of the question (0: the selection ignores it). `overlap`: the
    share of kept tokens that are also kept for another question about the image. `asked`: the share of kept
    tokens that show things in the question. `area`: the share of all tokens that show them. `families`: `own`
    by family.
    """

    own: Interval | None
    other: Interval | None
    gain: Interval | None
    overlap: Interval | None
    asked: Interval | None
    area: Interval | None
    questions: int
    families: Mapping[str, Interval] = field(default_factory=dict)


def sensitivity(
    mllm: MLLM, selector: Selector, keep: Keep, samples: Sequence[Sample], *,
    batch: int = BATCH, progress: Callable[[int, int], object] = lambda done, total: None,
) -> Sensitivity:  # fmt: skip
    """Measure how far a method follows the questions; neighbours in `samples` ask about the same image.

    ValueError if no image has two questions.
    """
    return measured(samples, choices(mllm, selector, keep, samples, batch, progress))


def measured(samples: Sequence[Sample], heard: Sequence[Heard]) -> Sensitivity:
    """Measure how far the selections for `samples` follow their questions; see `sensitivity`."""
    found: dict[str, list[float]] = {name: [] for name in COLUMNS}
    families: dict[str, list[float]] = defaultdict(list)
    images: dict[str, list[str]] = defaultdict(list)

    def note(name: str, image: str, value: float) -> None:
        found[name].append(value)
        images[name].append(image)

    questions = 0
    for image, group in groupby(range(len(samples)), key=lambda place: samples[place].picture_digest):
        places = [*group]
        for turn, place in enumerate(places):
            if len(places) < 2:
                continue
            mine, other = heard[place], heard[places[(turn + 1) % len(places)]]
            held = max(int(mine.kept.sum()), 1)
            note("overlap", image, (mine.kept & other.kept).sum() / held)
            shown = tokens_asked(samples[place], len(mine.kept))
            if shown is None:
                continue
            questions += 1
            asked, others = shown[0], shown[1] & ~shown[0]
            note("asked", image, mine.kept[asked].sum() / held)
            note("area", image, asked.mean())
            if others.any():
                own, borrowed = (auc(one.score, asked, others) for one in (mine, other))
                note("own", image, own)
                note("other", image, borrowed)
                note("gain", image, own - borrowed)
                families[samples[place].family].append(own)
                images[samples[place].family].append(image)
    if not found["overlap"]:
        raise ValueError("no image has two questions: choose a task with several per image, such as scenes")
    means = {
        name: mean_interval(np.array(values), images[name]) if values else None
        for name, values in found.items()
    }
    apart = {name: mean_interval(np.array(families[name]), images[name]) for name in sorted(families)}
    return Sensitivity(**means, questions=questions, families=apart)


def labelled(labels: Sequence[Label], samples: Sequence[Sample], tokens: int) -> Sensitivity:
    """Measure how far the labels of `samples` follow their questions, by their scores or else by kept tokens.

    `tokens` is the number of visual tokens of an image. ValueError if no image has two labels.
    """
    heard = [Heard.of(one.kept, tokens) for one in labels]
    scored = [
        choice if one.score is None else replace(choice, score=np.array(one.score))
        for choice, one in zip(heard, labels, strict=True)
    ]
    return measured(samples, scored)


def choices(
    mllm: MLLM, selector: Selector, keep: Keep, samples: Sequence[Sample], batch: int = BATCH,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> list[Heard]:  # fmt: skip
    """The tokens that a method keeps for each sample, and its scores."""
    scores: list[Floats] = []
    listening = copy(selector)
    if isinstance(selector, Scorer):
        vars(listening)["score"] = _recorded(selector, scores)
    made: list[Heard] = []
    for start in range(0, len(samples), batch):
        part = samples[start : start + batch]
        images, asked = [one.visual_at(mllm.image_side) for one in part], [one.question for one in part]
        scores.clear()
        with attach(mllm, listening, keep) as trace:
            mllm.answer(images, asked, max_new_tokens=1)
        for number, record in enumerate(trace.samples):
            last = record.kept[max(record.kept)] if record.kept else range(record.tokens)
            one = Heard.of(last, record.tokens)
            told = len(scores) == len(trace.samples) and len(scores[number]) == record.tokens
            made.append(replace(one, score=scores[number]) if told else one)
        progress(len(made), len(samples))
    return made


def _recorded(selector: Scorer, scores: list[Floats]) -> Callable[[View], object]:
    def score(view: View) -> object:
        found = selector.score(view)
        scores.append(found.double().cpu().numpy())
        return found

    return score


def tokens_asked(sample: Sample, tokens: int) -> tuple[Bools, Bools] | None:
    """Masks [N] of the visual tokens that show things in the question, and of those that show any things.

    None for images that our code did not render, for images in tiles and for questions about no thing.
    """
    about, drawn = sample.info.get("about"), scene_of(sample.picture)
    if not about or drawn is None or tokens != len(owner := drawn[0].owners(drawn[1])):
        return None
    shown = np.isin(owner, list(about))
    return (shown, owner >= 0) if shown.any() else None


def auc(scores: Floats, these: Bools, those: Bools) -> float:
    """The probability that a token of `these` has a higher score than one of `those`; ties count half."""
    mine, theirs = scores[these], np.sort(scores[those])
    below = np.searchsorted(theirs, mine, "left")
    upto = np.searchsorted(theirs, mine, "right")
    return float((below + upto).mean() / (2 * len(theirs)))
