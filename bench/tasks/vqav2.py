"""VQAv2 (Goyal et al. 2017, arXiv:1612.00837): counting and open questions with ten human answers each.

    How many red objects are there?
    Answer the question using a single word or phrase.   -> 2 (8 humans), 3 (2)

Published results are for test-dev, whose labels only the server has; offline scores are for val and labelled
so. Accuracy and normalisation are those of `bench.tasks.vqa`: LLaVA's full normaliser, then the official
tool; lmms-eval without the tokeniser step, on both sides.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench.tasks.base import SHORT, Task
from bench.tasks.folder import Folder, RawRecord, answers, identifier, read_json, text
from bench.tasks.micro import annotators, asked, sample
from bench.tasks.vqa import accuracy, normalised, official_accuracy
from compress.micro.worlds import MICRO, World
from compress.samples import ImageSource, Sample

QUESTIONS = "v2_OpenEnded_mscoco_{}_questions.json"
ANNOTATIONS = "v2_mscoco_{}_annotations.json"
FILES = {"val": "val2014", "train": "train2014", "test-dev": "test-dev2015", "test": "test2015"}
IMAGES = FILES | {"test-dev": "test2015"}
LMMS_LAB = {"val": "validation", "test-dev": "testdev", "test": "test"}


class VQAv2(Task):
    """Counting and open questions, ten annotators, soft accuracy (VQAv2)."""

    name = "vqav2"
    metric = "VQA accuracy"
    submits = True
    repository = "VQAv2"
    splits = {"val": (214354,), "train": (443757,), "test-dev": (107394,), "test": (447793,)}
    headline = ("yes/no", "number", "other")

    @property
    def max_new_tokens(self) -> int:
        return {"micro": 6, "llava": 128, "lmms-eval": 16}[self.protocol]

    def micro(self, n: int, split: str = "test", world: World = MICRO) -> list[Sample]:
        made = []
        for i, (scene, question) in enumerate(asked(world, self.name, split, n)):
            rng = world.rng_of(split, scene.seed, 4)
            others = world.pools.get(question.family, ("unanswerable",))
            answers = annotators(question.answer, others, rng, agree=0.88)
            made.append(sample(world, self.name, i, scene, question, answers))
        return made

    def official_files(self) -> tuple[str, ...]:
        return (QUESTIONS.format(FILES[self.part]), ANNOTATIONS.format(FILES[self.part]))

    def lab_files(self) -> tuple[str, ...]:
        return (f"data/{LMMS_LAB[self.part]}-*.parquet",) if self.part in LMMS_LAB else ()

    def official(self, folder: Folder) -> Iterator[Sample]:
        """Questions, for val and train joined to annotations by question id, and the images of COCO."""
        part, images = FILES[self.part], IMAGES[self.part]
        labels: dict[int, RawRecord] = {}
        if self.part in ("val", "train"):
            path = folder.find(ANNOTATIONS.format(part))
            labels = {row["question_id"]: row for row in read_json(path)["annotations"]}
        path = folder.find(QUESTIONS.format(part))
        for row in read_json(path)["questions"]:
            label = labels.get(row["question_id"], {})
            if label and label["image_id"] != row["image_id"]:
                raise ValueError(
                    f"{path}: question {row['question_id']} has another image in the annotations"
                )
            name = coco_name(images, row["image_id"])
            yield self.asked(row | label, folder.image(images, f"{name}.jpg"))

    def lmms_lab(self, folder: Folder) -> Iterator[Sample]:
        if self.part not in LMMS_LAB:
            raise ValueError(f"split '{self.part}' is not in {folder.path}: choose {', '.join(LMMS_LAB)}")
        for row, picture in folder.rows("data", LMMS_LAB[self.part]):
            yield self.asked(row, picture)

    def asked(self, row: RawRecord, picture: ImageSource) -> Sample:
        return Sample(
            id=identifier(row, "question_id"), picture=picture,
            question=text(row, "question") + ("" if self.protocol == "micro" else f"\n{SHORT}"),
            answers=answers(row),
            task=self.name, family=row.get("answer_type") or "",
            info={"image": coco_name(IMAGES[self.part], row["image_id"])},
        )  # fmt: skip

    def faults(self, samples: Sequence[Sample]) -> Iterator[str]:
        yield from super().faults(samples)
        yield from humans(samples)

    def correct(self, sample: Sample, prediction: str) -> float:
        if self.protocol == "llava":
            return official_accuracy(sample.answers, normalised(prediction))
        return accuracy(sample.answers, prediction, tokenise=False)

    def submission(
        self, samples: Sequence[Sample], predictions: Sequence[str], data: str | Path
    ) -> tuple[str, bytes]:
        """An array of {question_id, answer} for every question of test, with empty answers if not asked."""
        said = {
            int(one.id): normalised(text, tokenise=self.protocol == "llava")
            for one, text in zip(samples, predictions, strict=True)
        }
        folder = Folder.of(data, self.name, self.repository)
        if folder.tabular:
            ids = [int(row["question_id"]) for row, _ in folder.rows("data", "test")]
        else:
            path = folder.find(QUESTIONS.format(FILES["test"]))
            ids = [row["question_id"] for row in read_json(path)["questions"]]
        if strangers := said.keys() - set(ids):
            raise ValueError(
                f"the server takes answers to questions of test, and {len(strangers):,} of these are none "
                f"(for instance {min(strangers)}): choose --split test-dev or test"
            )
        rows = [{"question_id": number, "answer": said.get(number, "")} for number in ids]
        return f"vqav2-{self.part}.json", json.dumps(rows).encode()


def humans(samples: Sequence[Sample]) -> Iterator[str]:
    """Yield a fault if questions do not have ten human answers, or none (if they are not public)."""
    if odd := [one for one in samples if len(one.answers) not in (0, 10)]:
        yield f"{len(odd)} questions have not ten human answers: '{odd[0].id}' has {len(odd[0].answers)}"


def coco_name(part: str, image: int) -> str:
    """COCO's name of an image, for instance COCO_val2014_000000000042."""
    return f"COCO_{part}_{int(image):012d}"
