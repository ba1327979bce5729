"""The interface of a benchmark: samples that include the prompt, and a metric that is a function of sums."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from math import nan
from pathlib import Path
from typing import ClassVar, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from bench.tasks.folder import Folder, Manifest
from bench.tasks.images import Encoded, Padded
from bench.tasks.micro import asked, sample
from compress.micro.worlds import MICRO, World
from compress.samples import Sample, VisualSource
from compress.video import Visual
from evosearch.registry import unknown

Sums = NDArray[np.float64]
PromptStyle = Literal["micro", "llava", "lmms-eval"]
SHORT = "Answer the question using a single word or phrase."


@dataclass(frozen=True)
class Task(ABC):
    """One benchmark. Its score is `value` of summed `statistics`, so resampling units resamples the score.

    A unit is a sample, or a group of samples that only count together. `version` rises with every change of
    samples, prompt or metric: scores of different versions are not put into one table.

    `protocol` fixes prompt, post-processing and metric: `llava` as in the scripts behind published tables,
    `lmms-eval` as in that harness, `micro` for the miniature, whose prompt is the question alone. `split` is
    one of `splits` (None: the first); `image_mode` pads images to a square (None: as in the protocol).
    """

    protocol: PromptStyle = "micro"
    split: str | None = None
    image_mode: Literal["pad", "whole"] | None = None

    name: ClassVar[str]
    version: ClassVar[int] = 1
    repository: ClassVar[str] = ""  # name of lmms-lab's repository
    submits: ClassVar[bool] = False  # whether a server or tool takes a file
    splits: ClassVar[Mapping[str, tuple[int, ...]]] = {}  # published numbers of samples; () if unknown
    asks: ClassVar[tuple[str, ...]] = ()  # families of questions of the miniature; (): the world's default
    videos: ClassVar[bool] = False  # whether its samples are about videos
    headline: ClassVar[tuple[str, ...]] = ()  # sub-scores shown next to the score

    def __post_init__(self) -> None:
        if self.protocol not in get_args(PromptStyle):
            raise ValueError(unknown("protocol", self.protocol, get_args(PromptStyle)))
        if self.split is not None and self.split not in self.splits:
            raise ValueError(unknown(f"split of task '{self.name}'", self.split, self.splits))

    @property
    @abstractmethod
    def metric(self) -> str:
        """Name of the score."""

    @property
    def max_new_tokens(self) -> int:
        """Maximum number of tokens of an answer."""
        return 6 if self.protocol == "micro" else 128

    @property
    def part(self) -> str:
        """The split to read from the benchmark's files."""
        return self.split or next(iter(self.splits))

    # Samples ------------------------------------------------------------------------------------------------

    def micro(self, n: int, split: str = "test", world: World = MICRO) -> list[Sample]:
        """Return the samples of `n` questions of the miniature about scenes of `world`, from `asks` in turn.

        Neighbours are about different scenes if the form allows it. A question that is asked several times,
        as in MMBench with rotated options, counts as one question and several samples.
        """
        made = asked(world, self.name, split, n, families=self.asks)
        return [sample(world, self.name, i, scene, question) for i, (scene, question) in enumerate(made)]

    def load(self, data: str | Path, n: int | None = None) -> list[Sample]:
        """Load samples from the folder of benchmarks `data`, or from `hub:OWNER`, in the order of the files.

        With `n`, take the `n` questions (units) whose ids have the lowest hashes, evenly from every stratum:
        they are the same on every machine, and smaller sets are subsets of larger ones. ValueError for
        repeated or missing ids, and for a number of samples that is neither the published one nor the one in
        the folder's own manifest.
        """
        if not self.splits:
            raise ValueError(f"task '{self.name}' is there in miniature only: leave out --data")
        folder = Folder.of(data, self.name, self.repository)
        samples = self.whole(folder)
        if faults := [*self.faults(samples), *self.miscounts(samples, Manifest.of(data))]:
            more = f" (and {len(faults) - 1} more: evocomp doctor --data)" if len(faults) > 1 else ""
            raise ValueError(f"{folder.path}, {self.part}: {faults[0]}{more}")
        if n is not None:
            samples = self.some(samples, n)
        return [replace(one, picture=self.shown(one.picture)) for one in samples]

    def shown(self, picture: Visual | VisualSource) -> Visual | VisualSource:
        """Return the picture in the form of the protocol.

        LLaVA's scripts ignore EXIF, and pad to a square. A video is not changed.
        """
        if not isinstance(picture, Encoded):
            return picture
        if self.protocol == "llava":
            picture = picture.as_stored()
        pad = self.image_mode == "pad" or (self.image_mode is None and self.protocol == "llava")
        return Padded(picture) if pad else picture

    def whole(self, folder: Folder) -> list[Sample]:
        """All samples of the split, unchecked; ValueError if files are missing or have another form."""
        if folder.tabular and (mixed := found(folder, self.official_files())):
            raise ValueError(f"{folder.path} has both {mixed[0].name} and Parquet files: keep one layout")
        samples: list[Sample] = []
        try:
            samples.extend(self.lmms_lab(folder) if folder.tabular else self.official(folder))
        except KeyError as missing:
            raise ValueError(
                f"{folder.path}: record {len(samples)} has no field {missing}; is it a file that "
                f"docs/benchmarks.md names?"
            ) from missing
        except (TypeError, AttributeError) as problem:
            raise ValueError(
                f"{folder.path}: record {len(samples)} is of another form ({problem})"
            ) from problem
        except ValueError as problem:
            if str(folder.path) in str(problem):
                raise
            raise ValueError(f"{folder.path}, record {len(samples)}: {problem}") from problem
        return samples

    def present(self, folder: Folder) -> bool:
        """Return whether any files of this split are present."""
        return bool(found(folder, self.lab_files() if folder.tabular else self.official_files()))

    def official_files(self) -> tuple[str, ...]:
        """Patterns of the files that name this split, in the official layout."""
        return ()

    def other_files(self) -> tuple[str, ...]:
        """Patterns of further files that `official` reads, except pictures: answers, OCR texts, splits."""
        return ()

    def lab_files(self) -> tuple[str, ...]:
        """Patterns of the files that name this split, in lmms-lab's layout."""
        return (f"data/{self.part}-*.parquet",)

    def official(self, folder: Folder) -> Iterator[Sample]:
        """Yield samples from the files that the benchmark's authors distribute."""
        raise NotImplementedError

    def lmms_lab(self, folder: Folder) -> Iterator[Sample]:
        """Yield samples from lmms-lab's Parquet files."""
        raise NotImplementedError

    def faults(self, samples: Sequence[Sample]) -> Iterator[str]:
        """Describe defects in the samples of a whole split."""
        count = Counter(one.id for one in samples)
        if again := [name for name, times in count.items() if times > 1]:
            yield f"{len(again)} ids stand for several samples, for instance '{again[0]}'"
        if lacking := sum(not name.strip() or name in ("None", "nan") for name in count.elements()):
            yield f"{lacking} samples have no id"
        if silent := [one.id for one in samples if not one.question.strip()]:
            yield f"{len(silent)} samples have no question, for instance '{silent[0]}'"
        labelled = sum(bool(one.answers) for one in samples)
        if 0 < labelled < len(samples):
            yield f"{len(samples) - labelled} samples have no answer, but the others have one"

    def miscounts(self, samples: Sequence[Sample], manifest: Manifest) -> Iterator[str]:
        """Describe the difference between the number of samples of a whole split and the expected number."""
        own = manifest.sizes.get(f"{self.name}/{self.part}")
        published = self.splits[self.part] if own is None else (own,)
        if published and len(samples) not in published:
            yield (
                f"{len(samples):,} samples, but there should be {' or '.join(f'{n:,}' for n in published)}: "
                f"a file is cut or of another version (the size of a set of your own goes into evocomp.json)"
            )

    def notes(self, samples: Sequence[Sample]) -> Iterator[str]:
        """Notes on these samples for readers of a score, such as versions that share a name."""
        return iter(())

    def some(self, samples: Sequence[Sample], n: int) -> list[Sample]:
        """The samples of `n` units: from all strata in turn, in the order of the units' hashes."""
        strata: dict[str, list[str]] = {}
        for unit, stratum in {self.unit(one): self.stratum(one) for one in samples}.items():
            strata.setdefault(stratum, []).append(unit)
        ranked = sorted(
            (place, stratum, unit)
            for stratum, units in strata.items()
            for place, unit in enumerate(sorted(units, key=lambda unit: sha256(unit.encode()).digest()))
        )
        chosen = {unit for _, _, unit in ranked[:n]}
        return [one for one in samples if self.unit(one) in chosen]

    def unit(self, sample: Sample) -> str:
        """Name of the sample's unit."""
        return sample.id

    def stratum(self, sample: Sample) -> str:
        """Name of the sample's part of the benchmark, which has a score of its own."""
        return ""

    def image(self, sample: Sample) -> str:
        """Name of the sample's image in the data set if it is known, else a digest.

        The same image has the same name in all tasks.
        """
        return str(sample.info.get("image") or sample.picture_digest[:16])

    def images(self, samples: Sequence[Sample]) -> tuple[str, ...]:
        """[U] The image of each unit, in their order: units with one image are not independent evidence."""
        found: dict[str, str] = {}
        for one in samples:
            found.setdefault(self.unit(one), self.image(one))
        return tuple(found.values())

    # Scores -------------------------------------------------------------------------------------------------

    def correct(self, sample: Sample, prediction: str) -> float:
        """Credit of one prediction in [0, 1], for sample browsers and sub-scores; NaN without an answer."""
        return float(normal(prediction) == normal(sample.answers[0])) if sample.answers else nan

    def credit(self, samples: Sequence[Sample], predictions: Sequence[str]) -> Sums:
        """[U] The credit of each unit, in [0, 1], for paired tests. Default: one unit per sample."""
        pairs = zip(samples, predictions, strict=True)
        return np.array([self.correct(one, said) for one, said in pairs], float)

    def statistics(self, samples: Sequence[Sample], predictions: Sequence[str]) -> Sums:
        """Additive statistics [U, k]. Default: (credit, 1), for a score that is a mean over units."""
        credit = self.credit(samples, predictions)
        return np.stack([credit, np.ones(len(credit))], 1)

    def value(self, sums: Sums) -> Sums:
        """Score in percent from summed statistics, [..., k] -> [...]. Default: for (gained, possible)."""
        return 100 * sums[..., 0] / np.maximum(sums[..., 1], 1e-12)

    def score(self, samples: Sequence[Sample], predictions: Sequence[str]) -> float:
        """The benchmark's score in percent."""
        return float(self.value(self.statistics(samples, predictions).sum(0)))

    def subscores(self, samples: Sequence[Sample], predictions: Sequence[str]) -> dict[str, float]:
        """Scores of parts and rates by name, in percent unless the benchmark's file states another unit.

        Default: the credit of every family.
        """
        pairs = list(zip(samples, predictions, strict=True))
        return means((one.family, self.correct(one, said)) for one, said in pairs)

    def submission(
        self, samples: Sequence[Sample], predictions: Sequence[str], data: str | Path
    ) -> tuple[str, bytes]:
        """Name and content of the file for the benchmark's server or official tool."""
        raise ValueError(f"task '{self.name}' has no submission file: its labels are public")


def found(folder: Folder, patterns: Iterable[str]) -> list[Path]:
    """The files of a folder that match any of the patterns."""
    return [path for pattern in patterns for path in sorted(folder.path.glob(pattern))]


def normal(text: str) -> str:
    """Lower case, single spaces, no final full stop."""
    return " ".join(text.lower().split()).removesuffix(".").strip()


def means(named: Iterable[tuple[str, float]]) -> dict[str, float]:
    """Mean in percent of the values of each name, sorted by name; values without a name are left out."""
    values: dict[str, list[float]] = {}
    for name, value in named:
        if name:
            values.setdefault(name, []).append(value)
    return {name: 100 * sum(values[name]) / len(values[name]) for name in sorted(values)}
