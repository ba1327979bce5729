"""POPE (Li et al. 2023, arXiv:2305.10355): object existence, with random, popular and adversarial negatives.

    Is there a dining table in the image?
    Answer the question using a single word or phrase.   -> no

Official: 3 x 3,000 questions about 500 images of COCO val2014; an answer is no if its first sentence has the
word No, no or not, and otherwise yes. The published score is the mean of the three F1 (LLaVA); lmms-eval
pools them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal

import numpy as np

from bench.tasks.base import SHORT, Sums, Task
from bench.tasks.folder import Folder, Manifest, RawRecord, identifier, read_lines, text
from bench.tasks.micro import sample, scenes
from compress.micro.questions import NEGATIVES
from compress.micro.worlds import MICRO, World
from compress.samples import ImageSource, Sample

SUBSETS = NEGATIVES
LLAVA = "llava_pope_test.jsonl"  # LLaVA's questions for all three subsets
SIZES = {"random": (3000, 2910), "popular": (3000,), "adversarial": (3000,)}  # 2,910: commit LLaVA pins


@dataclass(frozen=True)
class Pope(Task):
    """Object existence against random, popular and adversarial negatives, F1 (POPE)."""

    rule: Literal["official", "robust", "strict"] | None = None  # None: the protocol's rule

    name = "pope"
    repository = "POPE"
    splits = {"test": (9000, 8910)}
    headline = ("accuracy", "said yes")

    @property
    def metric(self) -> str:
        return "pooled F1" if self.protocol == "lmms-eval" else "mean F1"

    def micro(self, n: int, split: str = "test", world: World = MICRO) -> list[Sample]:
        made: list[Sample] = []
        exist = world.ask["exist"]
        for number, scene in scenes(world, self.name, split):
            if len(made) >= n:
                break
            subset = SUBSETS[number % 3]
            rng = world.rng_of(split, scene.seed, 2)
            no = exist(scene, rng, negative=subset)
            yes = exist(scene, rng)
            while yes is None or yes.answer != "yes":
                yes = exist(scene, rng)
            if no is None:
                continue
            for question in (yes, no):
                made.append(sample(world, self.name, len(made), scene, question, subset=subset))
        return made[:n]

    def official_files(self) -> tuple[str, ...]:
        return ("coco_pope_*.json",)

    def official(self, folder: Folder) -> Iterator[Sample]:
        """`coco_pope_{subset}.json` (JSON Lines) and val2014/.

        If LLaVA's question file is present too, its questions are used, joined to the labels by content: only
        their positions link the two files, which come in versions of different length.
        """
        rows = {subset: read_lines(folder.find(f"coco_pope_{subset}.json")) for subset in SUBSETS}
        if (folder.path / LLAVA).is_file():
            rows = joined(read_lines(folder.path / LLAVA), rows)
        for subset, labelled in rows.items():
            for row in labelled:
                picture = folder.image("val2014", text(row, "image"))
                yield self.asked(subset, row, text(row, "text"), text(row, "label"), picture)

    def lmms_lab(self, folder: Folder) -> Iterator[Sample]:
        for row, picture in folder.rows("data", "test"):
            yield self.asked(text(row, "category"), row, text(row, "question"), text(row, "answer"), picture)

    def asked(self, subset: str, row: RawRecord, question: str, label: str, picture: ImageSource) -> Sample:
        if subset not in SUBSETS or label.strip().lower() not in ("yes", "no"):
            raise ValueError(
                f"question {row['question_id']}: category '{subset}', label '{label}' (not yes or no)"
            )
        return Sample(
            id=f"{subset}-{identifier(row, 'question_id')}", picture=picture,
            question=question if self.protocol == "micro" else f"{question}\n{SHORT}",
            answers=(label.strip().lower(),), task=self.name, family="exist",
            info={"subset": subset, "image": image_name(row)},
        )  # fmt: skip

    def miscounts(self, samples: Sequence[Sample], manifest: Manifest) -> Iterator[str]:
        yield from super().miscounts(samples, manifest)
        if f"{self.name}/{self.part}" not in manifest.sizes:
            count = Counter(map(self.stratum, samples))
            for subset, published in SIZES.items():
                if count[subset] not in published:
                    yield f"{count[subset]:,} {subset} questions, published are {published[0]:,}"

    def notes(self, samples: Sequence[Sample]) -> Iterator[str]:
        if sum(self.stratum(one) == "random" for one in samples) == 2910:
            yield "2,910 random questions, as at the commit LLaVA pins; today's file has 3,000"

    def stratum(self, sample: Sample) -> str:
        return str(sample.info["subset"])

    @property
    def reader(self) -> Callable[[str], bool | None]:
        """The rule that reads an answer as yes, no or neither."""
        default = {"micro": "robust", "llava": "official", "lmms-eval": "strict"}[self.protocol]
        return RULES[self.rule or default]

    def correct(self, sample: Sample, prediction: str) -> float:
        """1.0 if the answer is read as the label, else 0.0; an answer that is neither yes nor no is wrong."""
        return float(self.reader(prediction) is (sample.answers[0] == "yes"))

    def statistics(self, samples: Sequence[Sample], predictions: Sequence[str]) -> Sums:
        """[U, 9] Per sample: true positives, false positives, false negatives in its subset's columns.

        lmms-eval pools the subsets: all samples count in the first columns.
        """
        sums = np.zeros((len(samples), 9))
        for row, (one, prediction) in enumerate(zip(samples, predictions, strict=True)):
            yes, truth = self.reader(prediction), one.answers[0] == "yes"
            at = 0 if self.protocol == "lmms-eval" else 3 * SUBSETS.index(one.info["subset"])
            sums[row, at] = yes is True and truth
            sums[row, at + 1] = yes is True and not truth
            sums[row, at + 2] = yes is False and truth
        return sums

    def value(self, sums: Sums) -> Sums:
        parts = sums.reshape(*sums.shape[:-1], 3, 3)
        asked = parts.sum(-1) > 0
        return 100 * (f1(parts) * asked).sum(-1) / np.maximum(asked.sum(-1), 1)

    def subscores(self, samples: Sequence[Sample], predictions: Sequence[str]) -> dict[str, float]:
        """Accuracy, precision, recall, F1 and rate of yes, over all and in each subset, and the pooled F1.

        `rules differ` is the percentage of answers that the official and the robust rule read differently.
        """
        found: dict[str, float] = {}
        sums = self.statistics(samples, predictions)
        credits = self.credit(samples, predictions)
        yes = np.array([self.reader(said) is True for said in predictions], float)
        subset = np.array([one.info["subset"] for one in samples])
        for name in ("", *SUBSETS):
            here = (subset == name) | (not name)
            if not here.any():
                continue
            hit, false, missed = sums[here].sum(0).reshape(3, 3).sum(0)
            label = f"{name} " if name else ""
            found |= {
                f"{label}accuracy": 100 * float(credits[here].mean()),
                f"{label}precision": 100 * float(hit / max(hit + false, 1)),
                f"{label}recall": 100 * float(hit / max(hit + missed, 1)),
                f"{label}F1" if name else "pooled F1": 100 * float(f1(np.array([hit, false, missed]))),
                f"{label}said yes": 100 * float(yes[here].mean()),
            }
        apart = [official(said) is not robust(said) for said in predictions]
        return found | {"rules differ": 100 * sum(apart) / len(apart)}


def image_name(row: RawRecord) -> str | None:
    """COCO's name of the row's image; None if the row does not have it."""
    told = row.get("image_source") or row.get("image")
    return PurePosixPath(told).stem if isinstance(told, str) else None


def official(text: str) -> bool:
    """POPE's own rule: no if No, no or not is a word before the first period, otherwise yes."""
    words = text.split(".")[0].replace(",", "").split(" ")
    return not {"No", "no", "not"} & set(words)


def robust(text: str) -> bool:
    """Yes if yes is a word of the answer, ignoring case and punctuation, otherwise no."""
    return "yes" in "".join(c if c.isalnum() else " " for c in text.lower()).split()


def strict(text: str) -> bool | None:
    """lmms-eval's rule: yes or no as the whole answer, ignoring case; any other answer is neither."""
    return {"yes": True, "no": False}.get(text.lower().strip())


RULES: dict[str, Callable[[str], bool | None]] = {"official": official, "robust": robust, "strict": strict}


def f1(counts: Sums) -> Sums:
    """F1 of (true positives, false positives, false negatives) [..., 3]; 0 if all are zero."""
    hit = counts[..., 0]
    return 2 * hit / np.maximum(2 * hit + counts[..., 1] + counts[..., 2], 1e-12)


def joined(asked: Sequence[RawRecord], labelled: dict[str, list[RawRecord]]) -> dict[str, list[RawRecord]]:
    """The labels of the given questions, by subset, image and text; ValueError if they do not match."""
    questions = [(row["category"], row["image"], strip(row["text"])) for row in asked]
    for subset, rows in labelled.items():
        ours = sum(question[0] == subset for question in questions)
        if ours != len(rows):
            raise ValueError(
                f"{LLAVA} has {ours:,} {subset} questions, but coco_pope_{subset}.json {len(rows):,} labels: "
                f"they are of different versions (LLaVA's file has 2,910 random ones and goes with the "
                f"label files of POPE's commit e3e39262); fetch that, or delete {LLAVA}"
            )
    known = {
        (subset, row["image"], strip(row["text"])): row for subset, rows in labelled.items() for row in rows
    }
    lacking = [question for question in questions if question not in known]
    if lacking:
        raise ValueError(f"{LLAVA}: {len(lacking):,} questions have no label, for instance {lacking[0]}")
    chosen: dict[str, list[RawRecord]] = {subset: [] for subset in labelled}
    for row, question in zip(asked, questions, strict=True):
        chosen[question[0]].append(known[question] | {"question_id": row["question_id"]})
    return chosen


def strip(text: str) -> str:
    """The question without the prompt's last line."""
    return text.partition("\n")[0].strip()
