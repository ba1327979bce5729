"""AI2D (Kembhavi et al. 2016, arXiv:1603.07396): questions about diagrams in school books, by letters.

    Which letter marks the larva?
    A. b
    B. d
    Answer with the option's letter from the given choices directly.   -> B

Published results are for test, 3,088 questions. LLaVA's scripts do not include it: the protocol `llava` uses
their prompt format and reads letters as for MMBench.
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterator, Mapping
from pathlib import Path
from string import ascii_uppercase

from bench.tasks.choice import vlmevalkit
from bench.tasks.folder import Folder, RawRecord, identifier, read_json, text, texts
from bench.tasks.multiple import MultipleChoice
from compress.documents import read_text
from compress.samples import ImageSource, Sample

IDS = "ai2d_test_ids.csv"
PUNCTUATION = str.maketrans("", "", string.punctuation)


def lmms_eval(said: str, options: Mapping[str, str]) -> str | None:
    """A capital before a period at the start; else the whole answer, ignoring case and punctuation."""
    start = re.match(r"\s*([A-Z])\.", said)
    letter = start[1] if start else said.translate(PUNCTUATION).upper()
    return letter if letter in options else None


class AI2D(MultipleChoice):
    """Diagrams of school books, options by letter (AI2D)."""

    name = "ai2d"
    repository = "ai2d"
    splits = {"test": (3088,)}
    rules = {"llava": vlmevalkit, "lmms-eval": lmms_eval}

    @property
    def max_new_tokens(self) -> int:
        return {"micro": 6, "llava": 128, "lmms-eval": 16}[self.protocol]

    def official_files(self) -> tuple[str, ...]:
        return ("questions/*.json",)

    def other_files(self) -> tuple[str, ...]:
        return (IDS,)

    def official(self, folder: Folder) -> Iterator[Sample]:
        """One file of questions per image of ai2d_test_ids.csv, and images/."""
        listed = read_text(folder.find(IDS), 1 << 24).split()
        for image in sorted(listed, key=lambda name: (len(name), name)):
            path: Path = folder.find(f"questions/{image}.png.json")
            told = read_json(path)
            for question, row in told["questions"].items():
                picture = folder.image("images", text(told, "imageName"))
                asked = {"question": question, "options": row["answerTexts"], "answer": row["correctAnswer"]}
                yield self.asked(identifier(row, "questionId"), asked, picture, text(told, "imageName"))

    def lmms_lab(self, folder: Folder) -> Iterator[Sample]:
        """Rows have no id; their number is the id."""
        for place, (row, picture) in enumerate(folder.rows("data", self.part)):
            yield self.asked(str(place), row, picture)

    def asked(self, key: str, row: RawRecord, picture: ImageSource, image: str | None = None) -> Sample:
        options, place = texts(row, "options"), identifier(row, "answer")
        if not place.isdecimal() or int(place) >= len(options):
            raise ValueError(f"question {key}: the answer is {place}, but there are {len(options)} options")
        return self.choice(
            key, picture, text(row, "question"), options, ascii_uppercase[int(place)],
            image=image and f"ai2d/{image}",
        )  # fmt: skip
