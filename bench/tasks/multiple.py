"""Multiple choice by letters: code shared by MMBench, ScienceQA, AI2D, MMStar and MMMU.

    What color is the star?
    A. red
    B. blue
    Answer with the option's letter from the given choices directly.   -> A

Letters are read by rules. An answer without a letter is wrong, and the share of these answers is reported.
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
        """Build a sample; `answer` is a capital letter, or empty if it is not public.

        ValueError for a letter without an option.
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
        """The protocol's rule for reading a letter."""
        return self.rules[self.protocol]

    def letter(self, sample: Sample, prediction: str, rule: Matcher | None = None) -> str | None:
        """The letter of the option that an answer means, or None; `rule` replaces the protocol's."""
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
        """Percentage of the answers that mean no option."""
        pairs = zip(samples, predictions, strict=True)
        return 100 * float(np.mean([self.letter(*pair) is None for pair in pairs]))

    def subscores(self, samples: Sequence[Sample], predictions: Sequence[str]) -> dict[str, float]:
        return super().subscores(samples, predictions) | {UNREADABLE: self.unreadable(samples, predictions)}


def lettered(options: Sequence[str]) -> list[str]:
    """Options as lines such as `A. red`, `B. blue`."""
    return [f"{letter}. {text}" for letter, text in zip(ascii_uppercase, options, strict=False)]


def in_a_line(stem: str, options: Sequence[str]) -> str:
    """The prompt of the miniature: `what color is the star ? a red b blue`."""
    return stem + "".join(f" {letter} {text}" for letter, text in zip(LETTERS, options, strict=False))
