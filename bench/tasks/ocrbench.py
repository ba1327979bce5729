"""OCRBench (Liu et al. 2023, arXiv:2305.07895): 1,000 questions about text, from words to formulas.

    what is written in the image?
    Answer the question using a single word or phrase.   -> CENTRE

An answer is right if it contains the true one. The published score is the number of right answers out of
1,000; ours is the percentage, so 29.7 is published as 297. In lmms-eval the prompt is the question alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from bench.tasks.base import SHORT, Task
from bench.tasks.folder import Folder, RawRecord, identifier, read_json, text, texts
from compress.samples import ImageSource, Sample

RECOGNITION = "text recognition"
TYPES = (
    "Regular Text Recognition", "Irregular Text Recognition", "Artistic Text Recognition",
    "Handwriting Recognition", "Digit String Recognition", "Non-Semantic Text Recognition",
)  # fmt: skip  # the types of RECOGNITION
NARROW = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)} | {0x3000: 0x20}  # fullwidth to ASCII
FORMULAS = "HME100k"  # its answers are compared without spaces, and with case


class OCRBench(Task):
    """Text of ten kinds, the answer contains it (OCRBench)."""

    name = "ocrbench"
    metric = "accuracy"
    asks = ("read",)  # texts printed on the things of the world
    repository = "OCRBench"
    splits = {"test": (1000,)}
    headline = (RECOGNITION,)

    @property
    def max_new_tokens(self) -> int:
        return 6 if self.protocol == "micro" else 128

    def official_files(self) -> tuple[str, ...]:
        return ("OCRBench.json",)

    def official(self, folder: Folder) -> Iterator[Sample]:
        """OCRBench.json and OCRBench_Images/."""
        for row in read_json(folder.find("OCRBench.json")):
            source, image = text(row, "dataset_name"), text(row, "image_path")
            key = f"{source}-{identifier(row, 'id')}"
            picture = folder.image("OCRBench_Images", image)
            yield self.asked(key, row, source, text(row, "type"), "answers", picture, f"ocrbench/{image}")

    def lmms_lab(self, folder: Folder) -> Iterator[Sample]:
        """The authors' data set on the hub; rows have no id: their number is the id."""
        for place, (row, picture) in enumerate(folder.rows("data", self.part)):
            source, kind = text(row, "dataset"), text(row, "question_type")
            yield self.asked(str(place), row, source, kind, "answer", picture)

    def asked(
        self, key: str, row: RawRecord, source: str, kind: str, field: str, picture: ImageSource,
        image: str | None = None,
    ) -> Sample:  # fmt: skip
        answers = texts(row, field) if isinstance(row[field], list) else (text(row, field),)
        question = text(row, "question").strip()
        return Sample(
            id=key, picture=picture,
            question=f"{question}\n{SHORT}" if self.protocol == "llava" else question,
            answers=answers, task=self.name, family=kind, info={"source": source, "image": image},
        )  # fmt: skip

    def stratum(self, sample: Sample) -> str:
        return sample.family

    def correct(self, sample: Sample, prediction: str) -> float:
        said, *answers = prediction, *sample.answers
        formula = sample.info.get("source") == FORMULAS
        if self.protocol == "lmms-eval" and not formula:
            said, *answers = (one.translate(NARROW) for one in (said, *answers))
        return float(any(spelled(answer, formula) in spelled(said, formula) for answer in answers))

    def subscores(self, samples: Sequence[Sample], predictions: Sequence[str]) -> dict[str, float]:
        """Scores by kind of text, and of the six kinds of recognition together."""
        credits = self.credit(samples, predictions).tolist()
        recognised = [credit for one, credit in zip(samples, credits, strict=True) if one.family in TYPES]
        found = super().subscores(samples, predictions)
        return ({RECOGNITION: 100 * sum(recognised) / len(recognised)} if recognised else {}) | found


def spelled(text: str, formula: bool) -> str:
    """The form that the official tool compares: lower case, or, for a formula, without spaces."""
    line = text.strip().replace("\n", " ")
    return line.replace(" ", "") if formula else line.lower()
