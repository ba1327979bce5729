"""What a benchmark is: samples, a prompt that is already in them, and a metric that is a function of sums."""

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

    A unit is a sample, or the samples that only count together. `version` rises with every change of samples,
    prompt or metric: scores of different versions are not put into one table.

    `protocol` fixes prompt, post-processing and metric: `llava` as the scripts that published tables come
    from, `lmms-eval` as that harness, `micro` for the miniature, which is asked the bare question. `split` is
    one of `splits` (None: the first); `image_mode` pads images to a square (None: as the protocol does).
    """

    protocol: PromptStyle = "micro"
    split: str | None = None
    image_mode: Literal["pad", "whole"] | None = None

    name: ClassVar[str]
    version: ClassVar[int] = 1
    repository: ClassVar[str] = ""  # of lmms-lab
    submits: ClassVar[bool] = False  # whether there is a server or tool that takes a file
    splits: ClassVar[Mapping[str, tuple[int, ...]]] = {}  # numbers of samples as published; () where unknown
    asks: ClassVar[tuple[str, ...]] = ()  # families of questions of the miniature; () as the world has it
    videos: ClassVar[bool] = False  # whether its samples are about videos
    headline: ClassVar[tuple[str, ...]] = ()  # sub-scores that stand beside the score

    def __post_init__(self) -> None:
        if self.protocol not in get_args(PromptStyle):
            raise ValueError(unknown("protocol", self.protocol, get_args(PromptStyle)))
        if self.split is not None and self.split not in self.splits:
            raise ValueError(unknown(f"split of task '{self.name}'", self.split, self.splits))

    @property
    @abstractmethod
    def metric(self) -> str:
        """What the score is called."""

    @property
    def max_new_tokens(self) -> int:
        """How long an answer may be."""
        return 6 if self.protocol == "micro" else 128

    @property
    def part(self) -> str:
        """The split that is read from official files."""
        return self.split or next(iter(self.splits))

    # Samples ------------------------------------------------------------------------------------------------

    def micro(self, n: int, split: str = "test", world: World = MICRO) -> list[Sample]:
        """The samples of `n` questions of the miniature about scenes of `world`, of `asks` in turn.

        Neighbours are about different scenes where the form allows it. A question that is asked several
        times, as MMBench does with its options rotated, is one question and several samples.
        """
        made = asked(world, self.name, split, n, families=self.asks)
        return [sample(world, self.name, i, scene, question) for i, (scene, question) in enumerate(made)]

    def load(self, data: str | Path, n: int | None = None) -> list[Sample]:
        """Samples of the folder of benchmarks `data`, or of `hub:OWNER`, in the order of the files.

        With `n`, those of the `n` questions (units) whose ids hash lowest, evenly from every stratum: the
        same on every machine, and the fewer are among the more. ValueError for repeated or missing ids, and
        for a number of samples that is not the published one (nor what the folder's own manifest says).
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
        """The picture as the protocol has it: LLaVA's scripts ignore EXIF, and pad to a square. A video stays
        as it is.
        """
        if not isinstance(picture, Encoded):
            return picture
        if self.protocol == "llava":
            picture = picture.as_stored()
        pad = self.image_mode == "pad" or (self.image_mode is None and self.protocol == "llava")
        return Padded(picture) if pad else picture

    def whole(self, folder: Folder) -> list[Sample]:
        """All samples of the split, unchecked; ValueError for files that are missing or of another form."""
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
        """Whether files of this split are there at all."""
        return bool(found(folder, self.lab_files() if folder.tabular else self.official_files()))

    def official_files(self) -> tuple[str, ...]:
        """Patterns of the files that name this split, as distributed."""
        return ()

    def other_files(self) -> tuple[str, ...]:
        """Patterns of what `official` reads besides these and pictures: answers, recognised text, splits."""
        return ()

    def lab_files(self) -> tuple[str, ...]:
        """Patterns of the files that name this split, in lmms-lab's layout."""
        return (f"data/{self.part}-*.parquet",)

    def official(self, folder: Folder) -> Iterator[Sample]:
        """Samples of the files as the benchmark's authors distribute them."""
        raise NotImplementedError

    def lmms_lab(self, folder: Folder) -> Iterator[Sample]:
        """Samples of lmms-lab's Parquet files."""
        raise NotImplementedError

    def faults(self, samples: Sequence[Sample]) -> Iterator[str]:
        """What is wrong with the samples of a whole split, in words."""
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
        """How the number of samples of a whole split differs from what it should be."""
        own = manifest.sizes.get(f"{self.name}/{self.part}")
        published = self.splits[self.part] if own is None else (own,)
        if published and len(samples) not in published:
            yield (
                f"{len(samples):,} samples, but there should be {' or '.join(f'{n:,}' for n in published)}: "
                f"a file is cut or of another version (the size of a set of your own goes into evocomp.json)"
            )

    def notes(self, samples: Sequence[Sample]) -> Iterator[str]:
        """What a reader of a score should know about these samples: versions that share a name."""
        return iter(())

    def some(self, samples: Sequence[Sample], n: int) -> list[Sample]:
        """The samples of `n` units: the first of each stratum in the order of their hashes, in turns."""
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
        """What the sample counts in."""
        return sample.id

    def stratum(self, sample: Sample) -> str:
        """The part of the benchmark that has a score of its own."""
        return ""

    def image(self, sample: Sample) -> str:
        """Which image the sample is about: its name in the data set where that is known, else a digest.

        The same image has the same name in all tasks.
        """
        return str(sample.info.get("image") or sample.picture_digest[:16])

    def images(self, samples: Sequence[Sample]) -> tuple[str, ...]:
        """[U] The image of each unit, in the units' order: units of one image are no independent evidence."""
        found: dict[str, str] = {}
        for one in samples:
            found.setdefault(self.unit(one), self.image(one))
        return tuple(found.values())

    # Scores -------------------------------------------------------------------------------------------------

    def correct(self, sample: Sample, prediction: str) -> float:
        """Credit of one prediction in [0, 1], for sample browsers and sub-scores; NaN without an answer."""
        return float(normal(prediction) == normal(sample.answers[0])) if sample.answers else nan

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

    def subscores(self, samples: Sequence[Sample], predictions: Sequence[str]) -> dict[str, float]:
        """Scores of parts and rates, in percent unless the benchmark's file says otherwise; by name.

        By default the credit of every family.
        """
        pairs = list(zip(samples, predictions, strict=True))
        return means((one.family, self.correct(one, said)) for one, said in pairs)

    def submission(
        self, samples: Sequence[Sample], predictions: Sequence[str], data: str | Path
    ) -> tuple[str, bytes]:
        """Name and content of the file that the benchmark's server takes, or its official tool."""
        raise ValueError(f"task '{self.name}' has no submission file: its labels are public")


def found(folder: Folder, patterns: Iterable[str]) -> list[Path]:
    """The files of a folder that fit any of the patterns."""
    return [path for pattern in patterns for path in sorted(folder.path.glob(pattern))]


def normal(text: str) -> str:
    """Lower case, single spaces, no final full stop."""
    return " ".join(text.lower().split()).removesuffix(".").strip()


def means(named: Iterable[tuple[str, float]]) -> dict[str, float]:
    """Mean in percent of the values of each name, sorted by name; nameless values are left out."""
    values: dict[str, list[float]] = {}
    for name, value in named:
        if name:
            values.setdefault(name, []).append(value)
    return {name: 100 * sum(values[name]) / len(values[name]) for name in sorted(values)}
