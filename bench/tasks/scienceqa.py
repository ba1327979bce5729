"""ScienceQA (Lu et al. 2022, arXiv:2209.09513), the questions with an image: school science by letters.

    Context: The diagrams below show two pure samples of gas.
    Which sample has the higher temperature?
    A. neither
    B. sample B
    Answer with the option's letter from the given choices directly.   -> B

Published tables call it SQA or ScienceQA-IMG: the 2,017 questions of test with an image.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from string import ascii_uppercase

from bench.tasks.base import means
from bench.tasks.folder import Folder, RawRecord, read_json, text, texts
from bench.tasks.multiple import UNREADABLE, MultipleChoice
from compress.samples import ImageSource, Sample

LMMS_LAB = {"test": "test", "val": "validation", "train": "train"}


def llava(said: str, options: Mapping[str, str]) -> str | None:
    """The letter alone; before `. `; or after "The answer is", if that occurs once."""
    if said in options:
        return said
    if said[1:3] == ". " and said[0] in "ABCDE":
        return said[0] if said[0] in options else None
    told = re.findall(r"The answer is ([A-Z]).", said)
    return told[0] if len(told) == 1 and told[0] in options else None


def lmms_eval(said: str, options: Mapping[str, str]) -> str | None:
    """The letter alone, ignoring case; or a capital before a period."""
    said = said.strip()
    if said.upper() in options:
        return said.upper()
    return said[0] if said[1:2] == "." and said[0] in options else None


class ScienceQA(MultipleChoice):
    """School science with an image, options by letter (ScienceQA-IMG)."""

    name = "scienceqa"
    repository = "ScienceQA"
    splits = {"test": (2017,), "val": (2097,), "train": (6218,)}
    rules = {"llava": llava, "lmms-eval": lmms_eval}

    @property
    def max_new_tokens(self) -> int:
        return {"micro": 6, "llava": 1024, "lmms-eval": 16}[self.protocol]

    def official_files(self) -> tuple[str, ...]:
        return ("problems.json",)

    def other_files(self) -> tuple[str, ...]:
        return ("pid_splits.json",)

    def lab_files(self) -> tuple[str, ...]:
        return (f"ScienceQA-IMG/{LMMS_LAB[self.part]}-*.parquet",)

    def official(self, folder: Folder) -> Iterator[Sample]:
        """problems.json, pid_splits.json and images/{split}/{id}/; only questions with an image."""
        problems = read_json(folder.find("problems.json"))
        for key in read_json(folder.find("pid_splits.json"))[self.part]:
            row = problems[key]
            if row.get("image"):
                picture = folder.image(f"images/{self.part}/{key}", text(row, "image"))
                yield self.asked(str(key), row, picture)

    def lmms_lab(self, folder: Folder) -> Iterator[Sample]:
        """Rows have no id; their number is the id."""
        for place, (row, picture) in enumerate(folder.rows("ScienceQA-IMG", LMMS_LAB[self.part])):
            yield self.asked(str(place), row, picture)

    def asked(self, key: str, row: RawRecord, picture: ImageSource) -> Sample:
        stem, hint, options = text(row, "question"), row.get("hint") or "", texts(row, "choices")
        place = row["answer"]
        if not isinstance(place, int) or not 0 <= place < len(options):
            raise ValueError(f"question {key}: the answer is {place}, but there are {len(options)} choices")
        return self.choice(
            key, picture, f"Context: {hint}\n{stem}" if hint else stem, options, ascii_uppercase[place],
            family=row.get("subject") or "", grade=row.get("grade") or "", hint=bool(hint),
        )  # fmt: skip

    def subscores(self, samples: Sequence[Sample], predictions: Sequence[str]) -> dict[str, float]:
        """Scores by subject, by grades 1-6 and 7-12, and with and without a context, as in the paper."""
        found = super().subscores(samples, predictions)
        credits = self.credit(samples, predictions).tolist()
        pairs = list(zip(samples, credits, strict=True))
        grades = means((band(str(one.info.get("grade", ""))), credit) for one, credit in pairs)
        contexts = means(
            ("context" if one.info["hint"] else "no context", credit)
            for one, credit in pairs
            if "hint" in one.info
        )
        return {UNREADABLE: found.pop(UNREADABLE)} | found | grades | contexts


def band(grade: str) -> str:
    """The band of a grade: `grade4` is in grades 1-6; empty without a number."""
    number = grade.removeprefix("grade")
    return ("grades 1-6" if int(number) <= 6 else "grades 7-12") if number.isdecimal() else ""
