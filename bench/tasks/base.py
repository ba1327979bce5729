"""What a benchmark is: samples, a prompt that is already in them, and a metric that is a function of sums."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from compress.samples import Sample

Sums = NDArray[np.float64]


class Task(ABC):
    """One benchmark. Its score is `value` of summed `statistics`, so resampling units resamples the score.

    A unit is a sample, or the samples that only count together. `version` rises with every change of samples,
    prompt or metric: scores of different versions are not put into one table.
    """

    name: ClassVar[str]
    metric: ClassVar[str]
    version: ClassVar[int] = 1
    max_new_tokens: ClassVar[int] = 6

    @abstractmethod
    def micro(self, n: int, split: str = "test") -> list[Sample]:
        """`n` samples of the miniature, neighbours about different scenes where the form allows it."""

    def credit(self, samples: Sequence[Sample], predictions: Sequence[str]) -> Sums:
        """[U] how right each unit was, in [0, 1]: what tests compare pair by pair. By default per sample."""
        pairs = zip(samples, predictions, strict=True)
        return np.array([self.correct(one, said) for one, said in pairs], float)

    def statistics(self, samples: Sequence[Sample], predictions: Sequence[str]) -> Sums:
        """Additive statistics [U, k]; by default (credit, 1), for a score that is a mean over units."""
        credit = self.credit(samples, predictions)
        return np.stack([credit, np.ones(len(credit))], 1)

    def value(self, sums: Sums) -> Sums:
        """Score in percent from summed statistics, [..., k] -> [...]; by default (gained, possible)."""
        return 100 * sums[..., 0] / np.maximum(sums[..., 1], 1e-12)

    def score(self, samples: Sequence[Sample], predictions: Sequence[str]) -> float:
        """The benchmark's score in percent."""
        return float(self.value(self.statistics(samples, predictions).sum(0)))

    def correct(self, sample: Sample, prediction: str) -> float:
        """Credit of one prediction in [0, 1]: for sample browsers and sub-scores by family."""
        return soft_accuracy(sample.answers, prediction)


def normal(text: str) -> str:
    """Lower case, single spaces, no final full stop."""
    return " ".join(text.lower().split()).removesuffix(".").strip()


def soft_accuracy(answers: Sequence[str], prediction: str) -> float:
    """VQA accuracy: mean of min(1, matches / 3) with each annotator left out; exact match for one answer."""
    said = normal(prediction)
    matches = sum(normal(answer) == said for answer in answers)
    if len(answers) == 1:
        return float(matches)
    others = len(answers) - 1
    inside = min(1.0, (matches - 1) / 3) * matches + min(1.0, matches / 3) * (others + 1 - matches)
    return inside / len(answers)
