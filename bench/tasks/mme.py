"""MME (Fu et al. 2023, arXiv:2306.13394): two questions about each image, with the answers yes and no.

    Is there a train in the picture?
    Answer the question using a single word or phrase.   -> yes

Official: 2,374 questions of 14 categories, ten of perception and four of cognition. The score of a category
is accuracy plus accuracy+, from 0 to 200: accuracy counts questions, and accuracy+ images whose two questions
are both right. Scores of categories are added: up to 2,000 for perception and 800 for cognition. Published
tables print either perception or the sum of both; state which.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal

import numpy as np

from bench.tasks.base import SHORT, Sums, Task
from bench.tasks.folder import Folder, identifier, text
from bench.tasks.micro import sample, scenes
from compress.documents import read_text
from compress.micro.worlds import MICRO, World
from compress.samples import ImageSource, Sample

PERCEPTION = (
    "existence", "count", "position", "color", "posters", "celebrity", "scene", "landmark", "artwork", "OCR",
)  # fmt: skip
COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")
CATEGORIES = (*PERCEPTION, *COGNITION)
ROOT = "MME_Benchmark_release_version"
APART = ("images", "questions_answers_YN")  # sub-folders of the categories with separate questions
ASKING = "Please answer yes or no."
LARGEST = 1 << 20  # bytes of the questions about one image
ABILITIES = {"perception": PERCEPTION, "cognition": COGNITION, "total": CATEGORIES}


@dataclass(frozen=True)
class MME(Task):
    """Yes-or-no pairs about perception and cognition, accuracy and accuracy+ added up (MME)."""

    abilities: Literal["perception", "cognition", "total"] = "perception"  # categories that the score adds up

    name = "mme"
    repository = "MME"
    splits = {"test": (2374,)}
    headline = ("perception", "cognition")

    @property
    def metric(self) -> str:
        return f"{self.abilities} score (points)"

    @property
    def max_new_tokens(self) -> int:
        return {"micro": 6, "llava": 128, "lmms-eval": 16}[self.protocol]

    def micro(self, n: int, split: str = "test", world: World = MICRO) -> list[Sample]:
        """Pairs of `exist` (existence) and `relation` (position): one is true, the other is not.

        Pairs stay together: an odd `n` is lowered by one.
        """
        made: list[Sample] = []
        for number, scene in scenes(world, self.name, split):
            if len(made) >= n:
                return made[: max(2, n - n % 2)]
            family, category = (("exist", "existence"), ("relation", "position"))[number % 2]
            rng = world.rng_of(split, scene.seed, 2)
            asked = [world.ask[family](scene, rng) for _ in range(20)]
            pair = {one.answer: one for one in reversed(asked) if one}
            for answer in ("yes", "no") if len(pair) == 2 else ():
                one = sample(
                    world, self.name, len(made), scene, pair[answer], pair=f"{category}/{scene.seed}",
                    category=category,
                )  # fmt: skip
                made.append(one)
        return made

    def official_files(self) -> tuple[str, ...]:
        return (f"{ROOT}/*/*.txt", f"{ROOT}/*/{APART[1]}/*.txt")

    def official(self, folder: Folder) -> Iterator[Sample]:
        """A folder per category, with a picture and a text file of the same stem for each pair."""
        for category in CATEGORIES:
            root = folder.path / ROOT / category
            images, told = (root / name if (root / name).is_dir() else root for name in APART)
            named = {one.stem: one.name for one in images.glob("*") if one.suffix != ".txt"}
            for path in sorted(told.glob("*.txt")):
                if path.stem not in named:
                    raise ValueError(f"{path}: there is no image of the same name in {images}")
                lines = [line for line in read_text(path, LARGEST).splitlines() if line.strip()]
                for turn, line in enumerate(lines):
                    question, _, answer = line.partition("\t")
                    picture = folder.image(str(images.relative_to(folder.path)), named[path.stem])
                    yield self.asked(category, path.stem, turn, question, answer, picture)

    def lmms_lab(self, folder: Folder) -> Iterator[Sample]:
        turns: Counter[str] = Counter()
        for row, picture in folder.rows("data", self.part):
            pair = identifier(row, "question_id")
            turns[pair] += 1
            told = text(row, "question"), text(row, "answer")
            yield self.asked(text(row, "category"), PurePosixPath(pair).stem, turns[pair] - 1, *told, picture)

    def asked(
        self, category: str, stem: str, turn: int, question: str, answer: str, picture: ImageSource
    ) -> Sample:
        pair, label = f"{category}/{stem}", answer.strip().lower().rstrip(".")
        if category not in CATEGORIES or label not in ("yes", "no"):
            raise ValueError(f"question {pair}: category '{category}', answer '{answer}' (not yes or no)")
        bare = " ".join(question.replace(ASKING, "").split()) if ASKING in question else question.strip()
        return Sample(
            id=f"{pair}-{turn}", picture=picture,
            question=bare if self.protocol == "micro" else f"{bare}\n{SHORT}",
            answers=(label,), task=self.name, family=category,
            info={"pair": pair, "category": category, "image": f"mme/{pair}"},
        )  # fmt: skip

    def faults(self, samples: Sequence[Sample]) -> Iterator[str]:
        yield from super().faults(samples)
        count = Counter(map(self.unit, samples))
        if torn := [pair for pair, times in count.items() if times != 2]:
            yield f"{len(torn)} images have another number of questions than two, for instance '{torn[0]}'"

    def unit(self, sample: Sample) -> str:
        return str(sample.info["pair"])

    def stratum(self, sample: Sample) -> str:
        return str(sample.info["category"])

    def correct(self, sample: Sample, prediction: str) -> float:
        return float(said(prediction, self.protocol) == sample.answers[0])

    def credit(self, samples: Sequence[Sample], predictions: Sequence[str]) -> Sums:
        """[U] Mean of accuracy and accuracy+ of each pair: 0, 1/4 or 1.

        Pairs of categories that the score leaves out count as right: paired tests see no difference there.
        """
        sums = self.statistics(samples, predictions)
        scored = [2 * CATEGORIES.index(name) for name in ABILITIES[self.abilities]]
        left_out = 1 - sums[:, [place + 1 for place in scored]].sum(1)
        return sums[:, scored].sum(1) / 2 + left_out

    def statistics(self, samples: Sequence[Sample], predictions: Sequence[str]) -> Sums:
        """[U, 2 * 14]: accuracy plus accuracy+ of the pair, and 1, in the columns of its category."""
        right: dict[str, list[float]] = {}
        category: dict[str, str] = {}
        for one, prediction in zip(samples, predictions, strict=True):
            right.setdefault(self.unit(one), []).append(self.correct(one, prediction))
            category[self.unit(one)] = self.stratum(one)
        sums = np.zeros((len(right), 2 * len(CATEGORIES)))
        for row, (pair, hits) in enumerate(right.items()):
            at = 2 * CATEGORIES.index(category[pair])
            sums[row, at : at + 2] = sum(hits) / len(hits) + (sum(hits) == 2), 1
        return sums

    def value(self, sums: Sums) -> Sums:
        """Points (not percent): the sum of the scores of the categories in use."""
        return points(sums, ABILITIES[self.abilities])

    def subscores(self, samples: Sequence[Sample], predictions: Sequence[str]) -> dict[str, float]:
        """Points of perception, of cognition, of both, and of every category; and the rate of other answers.

        The rate is the percentage of answers that are neither yes nor no.
        """
        sums = self.statistics(samples, predictions).sum(0)
        found = {name: float(points(sums, parts)) for name, parts in ABILITIES.items()}
        asked = {self.stratum(one) for one in samples}
        found |= {name: float(points(sums, (name,))) for name in CATEGORIES if name in asked}
        neither = [said(text, self.protocol) is None for text in predictions]
        return found | {"neither": 100 * sum(neither) / len(neither)}


def points(sums: Sums, categories: Sequence[str]) -> Sums:
    """The sum of the scores of categories; [..., 2 * 14] -> [...]."""
    at = [2 * CATEGORIES.index(name) for name in categories]
    gained, pairs = sums[..., at], sums[..., [place + 1 for place in at]]
    return np.asarray(100 * (gained / np.maximum(pairs, 1e-12)).sum(-1))


def said(text: str, protocol: str) -> str | None:
    """Yes or no, as a whole or within the first four characters; else None.

    lmms-eval also strips periods, and reads a single y or n.
    """
    text = text.lower()
    if protocol == "lmms-eval":
        text = text.strip().replace(".", "")
        if len(text) == 1:
            return {"y": "yes", "n": "no"}.get(text)
    return next((word for word in ("yes", "no") if word in text[:4]), None)
