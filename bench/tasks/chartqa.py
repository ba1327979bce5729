"""ChartQA (Masry et al. 2022, arXiv:2203.10244): reading charts and calculating with their values.

    What is the difference in value between mutton and corn?
    Answer the question with a single word.   -> 0.57

Relaxed accuracy: a number may differ by 5 % from the true one, any other answer must be equal. Published
results are for test, 1,250 questions by humans and 1,250 that were generated from captions. LLaVA's scripts
do not include it: the protocol `llava` asks for a word or phrase, as those scripts do for short answers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from bench.tasks.base import SHORT, Task
from bench.tasks.folder import Folder, read_json, text
from compress.samples import ImageSource, Sample

KINDS = ("human", "augmented")
TOLERANCE = 0.05
PROMPT = {"llava": SHORT, "lmms-eval": "Answer the question with a single word."}


class ChartQA(Task):
    """Questions about charts, relaxed accuracy (ChartQA)."""

    name = "chartqa"
    metric = "relaxed accuracy"
    asks = ("count",)  # counts are the numbers of the world
    repository = "ChartQA"
    splits = {"test": (2500,), "val": (1920,), "train": (28299,)}
    headline = KINDS

    @property
    def max_new_tokens(self) -> int:
        return {"micro": 6, "llava": 128, "lmms-eval": 16}[self.protocol]

    def official_files(self) -> tuple[str, ...]:
        return (f"{self.part}/{self.part}_*.json",)

    def official(self, folder: Folder) -> Iterator[Sample]:
        """`{split}/{split}_human.json`, `{split}/{split}_augmented.json` and `{split}/png/`."""
        for kind in KINDS:
            for place, row in enumerate(read_json(folder.find(f"{self.part}/{self.part}_{kind}.json"))):
                name = text(row, "imgname")
                picture = folder.image(f"{self.part}/png", name)
                told = text(row, "query"), text(row, "label")
                yield self.asked(kind, place, *told, picture, f"chartqa/{name}")

    def lmms_lab(self, folder: Folder) -> Iterator[Sample]:
        """Rows have neither an id nor the name of the chart: each counts as a chart of its own."""
        places: Counter[str] = Counter()
        for row, picture in folder.rows("data", self.part):
            kind = text(row, "type").partition("_")[0]
            yield self.asked(kind, places[kind], text(row, "question"), text(row, "answer"), picture)
            places[kind] += 1

    def asked(
        self, kind: str, place: int, question: str, answer: str, picture: ImageSource,
        image: str | None = None,
    ) -> Sample:  # fmt: skip
        if kind not in KINDS:
            raise ValueError(f"question {place}: its kind is '{kind}', but it must be human or augmented")
        return Sample(
            id=f"{kind}-{place}", picture=picture,
            question=question if self.protocol == "micro" else f"{question}\n{PROMPT[self.protocol]}",
            answers=(answer,), task=self.name, family=kind, info={"image": image},
        )  # fmt: skip

    def stratum(self, sample: Sample) -> str:
        return sample.family

    def correct(self, sample: Sample, prediction: str) -> float:
        said = prediction if self.protocol == "lmms-eval" else prediction.strip()
        return float(relaxed(said, sample.answers[0]))


def relaxed(said: str, answer: str) -> bool:
    """True within 5 % of a number other than zero; else if equal, ignoring case. 25% is 0.25."""
    mine, true = number(said), number(answer)
    if mine is None or not true:
        return said.lower() == answer.lower()
    return abs(mine - true) / abs(true) <= TOLERANCE


def number(text: str) -> float | None:
    """The number in a text that contains nothing else, except a percent sign."""
    try:
        return float(text.rstrip("%")) / 100 if text.endswith("%") else float(text)
    except ValueError:
        return None
