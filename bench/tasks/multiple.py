"""Multiple choice by letters: what MMBench, ScienceQA, AI2D, MMStar and MMMU share.

    What color is the star?
    A. red
    B. blue
    Answer with the option's letter from the given choices directly.   -> A

Letters are read by rules. An answer without a letter is wrong, and the share of these is told.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import nan
from string import ascii_uppercase
from typing import ClassVar

import numpy as np

from bench.tasks.base import Task, normal
from bench.tasks.choice import Matcher
from compress.micro.language import LETTERS
from compress.samples import Sample, VisualSource

LETTER = "Answer with the option's letter from the given choices directly."
UNREADABLE = "unreadable"


class MultipleChoice(Task):
    """A question with lettered options; `info["options"]` of a sample holds their texts."""

    metric = "accuracy"
    asks = ("choose",)
    headline: ClassVar[tuple[str, ...]] = (UNREADABLE,)
    rules: ClassVar[Mapping[str, Matcher]] = {}  # by protocol

    def choice(
        self, id: str, picture: VisualSource, stem: str, options: Sequence[str], answer: str,
        family: str = "", **info: object,
    ) -> Sample:  # fmt: skip
        """A sample; `answer` is a capital letter, or empty where it is not public.

        ValueError for a letter that no option has.
        """
        if answer and answer not in list(ascii_uppercase[: len(options)]):
            raise ValueError(f"question {id}: the answer is '{answer}', but there are {len(options)} options")
        micro = self.protocol == "micro"
        return Sample(
            id=id, picture=picture,
            question=in_a_line(stem, options) if micro else self.prompt(stem, options),
            answers=((answer.lower() if micro else answer),) if answer else (),
            task=self.name, family=family, info={"options": tuple(options), **info},
        )  # fmt: skip

    def prompt(self, stem: str, options: Sequence[str]) -> str:
        """The question, an option per line, and the request for a letter."""
        return "\n".join([stem, *lettered(options), LETTER])

    @property
    def rule(self) -> Matcher:
        """How the protocol reads a letter."""
        return self.rules[self.protocol]

    def letter(self, sample: Sample, prediction: str, rule: Matcher | None = None) -> str | None:
        """The option that an answer means, or None; `rule` in place of the protocol's."""
        options = dict(zip(ascii_uppercase, sample.info["options"], strict=False))
        if self.protocol == "micro":
            said = normal(prediction).upper()
            return said if said in options else None
        return (rule or self.rule)(prediction, options)

    def correct(self, sample: Sample, prediction: str) -> float:
        if not sample.answers:
            return nan
        return float(self.letter(sample, prediction) == sample.answers[0].upper())

    def unreadable(self, samples: Sequence[Sample], predictions: Sequence[str]) -> float:
        """Percent of the answers that mean no option."""
        pairs = zip(samples, predictions, strict=True)
        return 100 * float(np.mean([self.letter(*pair) is None for pair in pairs]))

    def subscores(self, samples: Sequence[Sample], predictions: Sequence[str]) -> dict[str, float]:
        return super().subscores(samples, predictions) | {UNREADABLE: self.unreadable(samples, predictions)}


def lettered(options: Sequence[str]) -> list[str]:
    """`A. red`, `B. blue`."""
    return [f"{letter}. {text}" for letter, text in zip(ascii_uppercase, options, strict=False)]


def in_a_line(stem: str, options: Sequence[str]) -> str:
    """As the miniature asks: `what color is the star ? a red b blue`."""
    return stem + "".join(f" {letter} {text}" for letter, text in zip(LETTERS, options, strict=False))
