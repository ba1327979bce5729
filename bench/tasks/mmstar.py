"""MMStar (Chen et al. 2024, arXiv:2403.20330): 1,500 questions that cannot be answered without the image.

    Which option describes the object relationship in the image correctly?
    Options: A: The suitcase is on the book., B: The suitcase is beneath the cat.
    Answer with the option's letter from the given choices directly.   -> A

There are six abilities of 250 questions, each with three axes. The authors' score is the mean over questions,
that of lmms-eval the mean over axes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from bench.tasks.base import Sums, means
from bench.tasks.folder import Folder, identifier, text
from bench.tasks.multiple import LETTER, UNREADABLE, MultipleChoice
from compress.samples import Sample

AXES = (
    "image scene and topic", "image style & quality", "image emotion", "object counting", "recognition",
    "localization", "single-instance reasoning", "cross-instance attribute reasoning",
    "cross-instance relation reasoning", "code & sequence reasoning", "diagram reasoning", "common reasoning",
    "biology & chemistry & physics", "electronics & energy & mechanical eng.",
    "geography & earth science & agriculture", "geometry", "numeric commonsense and calculation",
    "statistical reasoning",
)  # fmt: skip
OPTIONS = "\nOptions: "
STARTS = ("", "(", "option ", "the answer is ")
PHRASES = (
    "the answer is", "answer is", "the correct answer is", "correct answer is", "the best answer is",
    "best answer is", "the correct option is", "correct option is", "the best option is", "best option is",
    "the choice is", "choice is", "the correct choice is", "correct choice is", "i choose", "i select",
    "i pick", "my answer is", "my choice is",
    "옵션", "정답은", "답은", "답:", "答案是", "答案为", "选", "答えは",
)  # fmt: skip


def official(said: str, options: Mapping[str, str]) -> str | None:
    """The first character, or the one after `(`, `option ` or `the answer is `; case is ignored."""
    said = said.lower().strip()
    for start in STARTS:
        letter = said.removeprefix(start)[:1].upper() if said.startswith(start) else ""
        if letter in options:
            return letter
    return None


class _Found(NamedTuple):
    """A letter in a form; the most reliable form wins, then the last place."""

    sure: int
    place: int
    letter: str


def lmms_eval(said: str, options: Mapping[str, str]) -> str | None:
    """The letter in the most reliable of several forms; the last one if several have that form.

    The forms, most reliable first: at the start, at the end, after a phrase, `(A)`, `A.`, `A:`, `A)`, before
    a space, anywhere.
    """
    bare = said.strip()
    for mark in ",.!?;:'\"":
        bare = bare.strip(mark)
    padded, bare = f" {bare} ", bare.strip()
    found: list[_Found] = []
    for letter in options:
        for sure, form in ((6, "({})"), (5, "{}."), (4, "{}:"), (3, "{})"), (2, "{} ")):
            if (place := padded.rfind(form.format(letter))) >= 0:
                found.append(_Found(sure, place, letter))
        for phrase in PHRASES:
            at = padded.lower().find(phrase)
            if at >= 0 and (place := padded.find(letter, at + len(phrase))) >= 0:
                found.append(_Found(7, place, letter))
        if bare.startswith(letter) and not bare[1:2].isalpha():
            found.append(_Found(10, 0, letter))
        if bare.endswith(letter) and not bare[-2:-1].isalpha():
            found.append(_Found(9, len(padded) - 1, letter))
    if not found:
        found = [_Found(0, place, one) for one in options if (place := padded.rfind(one)) >= 0]
    return max(found, key=lambda one: (one.sure, one.place), default=_Found(0, 0, "")).letter or None


class MMStar(MultipleChoice):
    """Questions that need the image, options by letter (MMStar)."""

    name = "mmstar"
    repository = "MMStar"
    splits = {"val": (1500,)}
    rules = {"llava": official, "lmms-eval": lmms_eval}

    @property
    def max_new_tokens(self) -> int:
        return {"micro": 6, "llava": 1024, "lmms-eval": 1024}[self.protocol]

    def lab_files(self) -> tuple[str, ...]:
        return ("data/val-*.parquet", "mmstar.parquet")

    def lmms_lab(self, folder: Folder) -> Iterator[Sample]:
        """mmstar.parquet, as the authors distribute it, or data/val-*.parquet."""
        for row, picture in folder.rows("data", self.part, alone="mmstar.parquet"):
            stem, _, listed = text(row, "question").strip().partition(OPTIONS)
            options = re.split(r"(?:^|, )[A-D]: ", listed)[1:]
            answer = text(row, "answer").strip().upper()
            if answer not in list("ABCD"):
                raise ValueError(f"question {row['index']}: the answer is '{answer}', but it must be A to D")
            options += [""] * (4 - len(options))  # some options have other marks, or are in the picture
            asked = stem if self.protocol == "micro" else text(row, "question")
            yield self.choice(
                identifier(row, "index"), picture, asked, options, answer,
                family=text(row, "category"), axis=text(row, "l2_category"),
            )  # fmt: skip

    def prompt(self, stem: str, options: Sequence[str]) -> str:
        """The stored question lists its options; lmms-eval leaves out the period."""
        return f"{stem.strip()}\n{LETTER.removesuffix('.') if self.protocol == 'lmms-eval' else LETTER}"

    def stratum(self, sample: Sample) -> str:
        return str(sample.info.get("axis", ""))

    def statistics(self, samples: Sequence[Sample], predictions: Sequence[str]) -> Sums:
        """[U, 2 * 18] Credit and 1 in the columns of the question's axis.

        If the score is the mean over questions, all are in the first columns.
        """
        sums = np.zeros((len(samples), 2 * len(AXES)))
        for row, (one, credit) in enumerate(zip(samples, self.credit(samples, predictions), strict=True)):
            axis = self.stratum(one)
            at = AXES.index(axis) if self.protocol == "lmms-eval" and axis in AXES else 0
            sums[row, 2 * at : 2 * at + 2] = credit, 1
        return sums

    def value(self, sums: Sums) -> Sums:
        gained, asked = sums[..., 0::2], sums[..., 1::2]
        mean = gained / np.maximum(asked, 1e-12)
        return np.asarray(100 * mean.sum(-1) / np.maximum((asked > 0).sum(-1), 1))

    def subscores(self, samples: Sequence[Sample], predictions: Sequence[str]) -> dict[str, float]:
        """Scores by ability and by axis."""
        found = super().subscores(samples, predictions)
        credits = self.credit(samples, predictions).tolist()
        axes = means((self.stratum(one), credit) for one, credit in zip(samples, credits, strict=True))
        return {UNREADABLE: found.pop(UNREADABLE)} | found | axes
