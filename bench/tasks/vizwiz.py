"""VizWiz-VQA (Gurari et al. 2018, arXiv:1802.08218): photographs by blind people, some without an answer.

    What color is the star? (a finger before it)
    When the provided information is insufficient, respond with 'Unanswerable'.
    Answer the question using a single word or phrase.   -> unanswerable

Published results are for test, 8,000 questions without public labels; results for val are not comparable with
them. "Unanswerable" is an answer like any other. Compressed models tend to give it more often, so its rate is
reported next to the accuracy. Normalisation and accuracy are those of `bench.tasks.vqa`, all steps on both
sides.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from bench.tasks.base import SHORT, Task
from bench.tasks.folder import Folder, RawRecord, answers, read_json, text, texts
from bench.tasks.micro import annotators, asked, sample
from bench.tasks.vqa import accuracy, normalised
from bench.tasks.vqav2 import humans
from compress.micro.world import COLORS, SPOILS
from compress.micro.worlds import MICRO, World
from compress.samples import ImageSource, Sample

INSUFFICIENT = "When the provided information is insufficient, respond with 'Unanswerable'."
UNANSWERABLE = "predicted unanswerable"


class VizWiz(Task):
    """Bad photographs and unanswerable questions, ten annotators, soft accuracy (VizWiz)."""

    name = "vizwiz"
    metric = "VQA accuracy"
    submits = True
    repository = "VizWiz-VQA"
    splits = {"val": (4319,), "train": (20523,), "test": (8000,)}
    headline = (UNANSWERABLE,)

    def micro(self, n: int, split: str = "test", world: World = MICRO) -> list[Sample]:
        made = []
        for i, (scene, question) in enumerate(
            asked(world, self.name, split, n, spoil=lambda i: SPOILS[i % 3])
        ):
            others = ("yes", "no") if question.family == "exist" else (*COLORS, "unanswerable")
            rng = world.rng_of(split, scene.seed, 4)
            answers = annotators(question.answer, others, rng, agree=0.85)
            made.append(sample(world, self.name, i, scene, question, answers))
        return made

    def official_files(self) -> tuple[str, ...]:
        return (f"{self.part}.json",)

    def official(self, folder: Folder) -> Iterator[Sample]:
        """`{split}.json` and `{split}/`; a question has no id: the name of its image is the id."""
        for row in read_json(folder.find(f"{self.part}.json")):
            image, kind = text(row, "image"), row.get("answer_type") or ""
            yield self.asked(image, row, answers(row), kind, folder.image(self.part, image))

    def lmms_lab(self, folder: Folder) -> Iterator[Sample]:
        for row, picture in folder.rows("data", self.part):
            name = f"{text(row, 'question_id').removesuffix('.jpg')}.jpg"
            yield self.asked(name, row, texts(row, "answers"), row.get("category") or "", picture)

    def asked(
        self, image: str, row: RawRecord, answers: tuple[str, ...], kind: str, picture: ImageSource
    ) -> Sample:
        return Sample(
            id=PurePosixPath(image).stem, picture=picture,
            question=prompt(text(row, "question"), self.protocol),
            answers=answers, task=self.name, family=kind, info={"image": image},
        )  # fmt: skip

    def faults(self, samples: Sequence[Sample]) -> Iterator[str]:
        yield from super().faults(samples)
        yield from humans(samples)

    def correct(self, sample: Sample, prediction: str) -> float:
        return accuracy(sample.answers, prediction)

    def subscores(self, samples: Sequence[Sample], predictions: Sequence[str]) -> dict[str, float]:
        """Scores by answer type, and the share of predictions that are "unanswerable"."""
        said = [normalised(text) == "unanswerable" for text in predictions]
        return super().subscores(samples, predictions) | {UNANSWERABLE: 100 * sum(said) / len(said)}

    def submission(
        self, samples: Sequence[Sample], predictions: Sequence[str], data: str | Path
    ) -> tuple[str, bytes]:
        """An array of {image, answer}, normalised."""
        rows = [
            {"image": one.info["image"], "answer": normalised(text)}
            for one, text in zip(samples, predictions, strict=True)
        ]
        return f"vizwiz-{self.part}.json", json.dumps(rows).encode()


def prompt(question: str, protocol: str) -> str:
    """The protocol's prompt; lmms-eval's `capitalize` also lowers all letters but the first."""
    if protocol == "micro":
        return question
    return "\n".join([question.capitalize() if protocol == "lmms-eval" else question, INSUFFICIENT, SHORT])
