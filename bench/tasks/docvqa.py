"""DocVQA (Mathew et al. 2020, arXiv:2007.00398): reading scanned documents.

    What is the name of the company?
    Answer the question using a single word or phrase.   -> itc limited

ANLS (Biten et al. 2019, arXiv:1905.13648): one minus the edit distance over the longer length, for the
nearest accepted answer; values below a half count as zero. Published results are for test, 5,188 questions
without public labels; val can be scored offline. LLaVA's scripts do not include it: the protocol `llava` asks
for a word or phrase, as those scripts do for short answers.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from math import nan
from pathlib import Path, PurePosixPath

from bench.tasks.base import SHORT, Task
from bench.tasks.folder import Folder, RawRecord, identifier, read_json, text, texts
from compress.samples import ImageSource, Sample

LMMS_LAB = {"val": "validation", "test": "test", "train": "train"}
THRESHOLD = 0.5


class DocVQA(Task):
    """Scanned documents, similarity of spelling (DocVQA)."""

    name = "docvqa"
    metric = "ANLS"
    asks = ("read",)  # texts printed on the things of the world
    submits = True
    repository = "DocVQA"
    splits = {"val": (5349,), "test": (5188,), "train": (39463,)}

    @property
    def max_new_tokens(self) -> int:
        return {"micro": 6, "llava": 128, "lmms-eval": 32}[self.protocol]

    def files(self) -> tuple[str, ...]:
        return (f"{self.part}_v1.0.json", f"{self.part}_v1.0_withQT.json")

    def official_files(self) -> tuple[str, ...]:
        return self.files()

    def lab_files(self) -> tuple[str, ...]:
        return (f"DocVQA/{LMMS_LAB[self.part]}-*.parquet",)

    def official(self, folder: Folder) -> Iterator[Sample]:
        """`{split}_v1.0.json` (now `{split}_v1.0_withQT.json`) and documents/."""
        for row in read_json(folder.find(*self.files()))["data"]:
            name = PurePosixPath(text(row, "image")).name
            yield self.asked(row, folder.image("documents", name), name)

    def lmms_lab(self, folder: Folder) -> Iterator[Sample]:
        for row, picture in folder.rows("DocVQA", LMMS_LAB[self.part]):
            page = identifier(row, "ucsf_document_page_no")
            yield self.asked(row, picture, f"{identifier(row, 'ucsf_document_id')}_{page}.png")

    def asked(self, row: RawRecord, picture: ImageSource, page: str) -> Sample:
        question, kinds = text(row, "question"), texts(row, "question_types")
        return Sample(
            id=identifier(row, "questionId"), picture=picture,
            question=question if self.protocol == "micro" else f"{question}\n{SHORT}",
            answers=texts(row, "answers"), task=self.name, family=kinds[0] if len(kinds) == 1 else "",
            info={"image": f"docvqa/{page}", "kinds": kinds},
        )  # fmt: skip

    def correct(self, sample: Sample, prediction: str) -> float:
        return anls(sample.answers, prediction)

    def submission(
        self, samples: Sequence[Sample], predictions: Sequence[str], data: str | Path
    ) -> tuple[str, bytes]:
        """An array of {questionId, answer}."""
        rows = [
            {"questionId": int(one.id), "answer": said}
            for one, said in zip(samples, predictions, strict=True)
        ]
        return f"docvqa-{self.part}.json", json.dumps(rows).encode()


def anls(answers: Sequence[str], said: str) -> float:
    """Similarity in [0, 1] of a prediction to the nearest answer; NaN without answers.

    Case and repeated spaces are ignored. The paper drops values of a half and below; the official tool,
    lmms-eval and this function drop only values below a half. The official tool and lmms-eval divide by the
    lengths before spaces are joined, and so does this function.
    """
    if not answers:
        return nan
    best = max(1 - distance(plain(one), plain(said)) / (max(len(one), len(said)) or 1) for one in answers)
    return best if best >= THRESHOLD else 0.0


def plain(text: str) -> str:
    return " ".join(text.lower().split())


def distance(a: str, b: str) -> int:
    """Levenshtein's edit distance."""
    row = list(range(len(b) + 1))
    for i, mine in enumerate(a, 1):
        before, row[0] = row[0], i
        for j, other in enumerate(b, 1):
            before, row[j] = row[j], min(before + (mine != other), row[j] + 1, row[j - 1] + 1)
    return row[-1]
