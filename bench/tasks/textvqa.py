"""TextVQA (Singh et al. 2019, arXiv:1904.08920): reading text. Its miniature selects checkpoints.

    What is the brand of this camera?
    Reference OCR token: DAKOTA, DIGITAL, Single-Use
    Answer the question using a single word or phrase.   -> dakota

Published results are for val, 5,000 questions, for LLaVA-1.5 with the line of OCR tokens: without it the same
model scores twelve points less, so the two are never mixed. Normalisation and accuracy are those of
`bench.tasks.vqa`, all steps on both sides.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bench.tasks.base import SHORT, Task
from bench.tasks.folder import Folder, RawRecord, identifier, read_json, read_lines, text, texts
from bench.tasks.micro import asked, sample
from bench.tasks.vqa import accuracy, normalised
from bench.tasks.vqav2 import humans
from compress.micro.worlds import MICRO, World
from compress.samples import ImageSource, Sample

QUESTIONS = "TextVQA_0.5.1_{}.json"
OCR = "TextVQA_Rosetta_OCR_v0.2_{}.json"
LLAVA = "llava_textvqa_val_v051_ocr.jsonl"
IMAGES = {"val": "train_images", "train": "train_images", "test": "test_images"}
LMMS_LAB = {"val": "validation", "train": "train", "test": "test"}


@dataclass(frozen=True)
class TextVQA(Task):
    """Read what is written, ten annotators, soft accuracy (TextVQA; chooses checkpoints)."""

    ocr_hint: Literal["on", "off"] | None = None  # None: on under llava, as LLaVA-1.5 is asked, else off

    name = "textvqa"
    metric = "VQA accuracy"
    submits = True
    repository = "textvqa"
    splits = {"val": (5000,), "train": (34602,), "test": (5734,)}

    def micro(self, n: int, split: str = "val", world: World = MICRO) -> list[Sample]:
        made = asked(world, self.name, split, n)
        return [
            sample(world, self.name, i, scene, question, (question.answer,) * 10)
            for i, (scene, question) in enumerate(made)
        ]

    @property
    def hinted(self) -> bool:
        """True if OCR tokens are in the prompt."""
        return self.ocr_hint == "on" or (self.ocr_hint is None and self.protocol == "llava")

    def official_files(self) -> tuple[str, ...]:
        return (QUESTIONS.format(self.part),)

    def other_files(self) -> tuple[str, ...]:
        return (LLAVA, OCR.format(self.part)) if self.hinted else ()

    def lab_files(self) -> tuple[str, ...]:
        return (f"data/{LMMS_LAB[self.part]}-*.parquet",)

    def official(self, folder: Folder) -> Iterator[Sample]:
        """Questions and train_images/; OCR tokens from LLaVA's question file if present, else Rosetta's.

        LLaVA's file names its questions by image, and several questions share one: they are joined by image
        and lower-case question.
        """
        rows = read_json(folder.find(QUESTIONS.format(self.part)))["data"]
        asked: dict[tuple[str, str], str] = {}
        tokens: dict[str, Sequence[str]] = {}
        if self.hinted and self.part == "val" and (folder.path / LLAVA).is_file():
            lines = read_lines(folder.path / LLAVA)
            asked = {
                (row["question_id"], row["text"].partition("\n")[0].lower()): row["text"] for row in lines
            }
        elif self.hinted:
            tokens = {
                row["image_id"]: texts(row, "ocr_tokens")
                for row in read_json(folder.find(OCR.format(self.part)))["data"]
            }
        for row in rows:
            prompt = None
            if asked:
                prompt = asked.get((row["image_id"], row["question"].lower()))
                if prompt is None:
                    raise ValueError(
                        f"{LLAVA} does not ask '{row['question']}' about image {row['image_id']}"
                    )
            elif self.hinted and row["image_id"] not in tokens:
                raise ValueError(f"{OCR.format(self.part)} has no tokens of image {row['image_id']}")
            image = folder.image(IMAGES[self.part], f"{row['image_id']}.jpg")
            yield self.asked(row, tokens.get(row["image_id"], ()), image, prompt)

    def lmms_lab(self, folder: Folder) -> Iterator[Sample]:
        for row, picture in folder.rows("data", LMMS_LAB[self.part]):
            yield self.asked(row, texts(row, "ocr_tokens") if self.hinted else (), picture)

    def asked(
        self, row: RawRecord, tokens: Sequence[str], picture: ImageSource, prompt: str | None = None
    ) -> Sample:
        return Sample(
            id=identifier(row, "question_id"), picture=picture,
            question=self.prompt(text(row, "question"), tokens) if prompt is None else prompt,
            answers=texts(row, "answers"), task=self.name, family="read",
            info={"image": row["image_id"]},
        )  # fmt: skip

    def prompt(self, question: str, tokens: Sequence[str]) -> str:
        """The protocol's prompt; lmms-eval's `capitalize` also lowers all letters but the first."""
        hint = [f"Reference OCR token: {', '.join(tokens)}"] if self.hinted else []
        if self.protocol == "micro":
            return "\n".join([question, *hint])
        return "\n".join([question.capitalize() if self.protocol == "lmms-eval" else question, *hint, SHORT])

    def faults(self, samples: Sequence[Sample]) -> Iterator[str]:
        yield from super().faults(samples)
        yield from humans(samples)

    def correct(self, sample: Sample, prediction: str) -> float:
        return accuracy(sample.answers, prediction)

    def submission(
        self, samples: Sequence[Sample], predictions: Sequence[str], data: str | Path
    ) -> tuple[str, bytes]:
        """An array of {question_id, answer}, normalised."""
        rows = [
            {"question_id": int(one.id), "answer": normalised(text)}
            for one, text in zip(samples, predictions, strict=True)
        ]
        return f"textvqa-{self.part}.json", json.dumps(rows).encode()
