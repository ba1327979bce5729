"""MMBench (Liu et al. 2023, arXiv:2307.06281): multiple choice with circular evaluation, English and Chinese.

    What color is the star?
    A. red
    B. blue
    Answer with the option's letter from the given choices directly.   -> A

A question counts only if it is answered correctly under all rotations of its options. Rotated copies are in
the official table with 1,000,000, 2,000,000 and so on added to `index`. Letters are read by rules
(`bench.tasks.choice`); an answer without a letter is wrong, and the share of these answers is reported.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import nan
from pathlib import Path
from typing import Literal

import numpy as np

from bench.tasks.base import Sums, means
from bench.tasks.choice import MATCHERS, Matcher, any_script
from bench.tasks.folder import Folder, Manifest, RawRecord, read_table, text
from bench.tasks.images import ImageText
from bench.tasks.micro import asked, sample
from bench.tasks.multiple import LETTER, UNREADABLE, MultipleChoice, in_a_line, lettered
from bench.tasks.spreadsheet import workbook
from compress.micro.language import LETTERS
from compress.micro.questions import Question, with_options
from compress.micro.worlds import MICRO, World
from compress.samples import ImageSource, Sample
from evosearch.registry import cut

COPY = 1_000_000
OPTIONS = "ABCD"
NEEDED = ("index", "question", "A", "B", "category", "image")
NOT_SUBMITTED = {"hint", "category", "source", "image", "comment", "l2-category", "L2-category"}
SUFFIX = {
    ("llava", False): LETTER,
    ("llava", True): "请直接回答选项字母。",
    ("lmms-eval", False): f"\n{LETTER}",
    ("lmms-eval", True): "\n请直接使用所提供的选项字母作为答案回答。",
}


@dataclass(frozen=True)
class MMBench(MultipleChoice):
    """Multiple choice, circular evaluation over all rotations (MMBench)."""

    edition: Literal["1.0", "1.1"] = "1.0"  # the editions have different questions and are never compared
    letters: Literal["vlmevalkit", "lmms-eval", "any-script"] | None = None  # None: the protocol's rule

    name = "mmbench"
    metric = "circular accuracy"
    submits = True
    repository = "MMBench"
    splits = {"dev": (4329, 4377), "test": (6666,)}
    headline = ("vanilla", UNREADABLE)
    chinese = False

    @property
    def max_new_tokens(self) -> int:
        return {"micro": 6, "llava": 1024, "lmms-eval": 256 if self.chinese else 1024}[self.protocol]

    def micro(self, n: int, split: str = "test", world: World = MICRO) -> list[Sample]:
        made: list[Sample] = []
        for number, (scene, question) in enumerate(asked(world, "mmbench", split, n, self.chinese)):
            right = question.options[LETTERS.index(question.answer)]
            stem = question.text.split(f" a {question.options[0]}")[0]
            for turn in range(4):
                options = (*question.options[turn:], *question.options[:turn])
                rotated = with_options(Question(stem, right, question.family, question.about), options, right)
                made.append(sample(world, self.name, len(made), scene, rotated, item=number, copy=turn))
        return made

    def files(self) -> tuple[str, ...]:
        """Names of the official table in its current and older versions."""
        language, tail = "CN" if self.chinese else "EN", "_V11" if self.edition == "1.1" else ""
        old = "mmbench_dev_cn_20231003.tsv" if self.chinese else "mmbench_dev_20230712.tsv"
        today = f"MMBench_{self.part.upper()}_{language}{tail}.tsv"
        return (today, old) if self.part == "dev" and self.edition == "1.0" else (today,)

    def official_files(self) -> tuple[str, ...]:
        return self.files()

    def lab_files(self) -> tuple[str, ...]:
        return (f"{'cn' if self.chinese else 'en'}/{self.part}-*.parquet",)

    def official(self, folder: Folder) -> Iterator[Sample]:
        """The table, with pictures as base64 text, or as the index of the row with the picture."""
        path = folder.find(*self.files())
        rows = read_table(path, NEEDED)
        texts = {row["index"]: row["image"] for row in rows}
        shared: dict[str, str] = {}  # copies of one picture are kept once
        for row in rows:
            encoded, name = row["image"], f"{path}, index {cut(row['index'])}"
            if len(encoded) < 64 and encoded.strip().isdecimal():
                if encoded.strip() not in texts:
                    raise ValueError(f"{name}: no row has picture {encoded.strip()}")
                encoded = texts[encoded.strip()]
            yield self.asked(row, ImageText(name, shared.setdefault(encoded, encoded)), name)

    def lmms_lab(self, folder: Folder) -> Iterator[Sample]:
        if self.edition != "1.0":
            raise ValueError(
                f"edition {self.edition} is read from its official table, and {folder.path} has none"
            )
        for row, picture in folder.rows("cn" if self.chinese else "en", self.part):
            yield self.asked(row, picture, f"{folder.path}, index {row['index']}")

    def asked(self, row: RawRecord, picture: ImageSource, where: str) -> Sample:
        if not str(row["index"]).strip().isdecimal():
            raise ValueError(f"{where}: the index is not a whole number")
        index, options = int(row["index"]), options_of(row)
        answer = "" if absent(row.get("answer")) else text(row, "answer").strip().upper()
        if answer and answer not in list(OPTIONS[: len(options)]):
            raise ValueError(f"{where}: the answer is '{answer}', but there are {len(options)} options")
        if self.protocol == "micro":
            answer = answer.lower()
        return Sample(
            id=str(index), picture=picture, question=self.ask(row, options),
            answers=(answer,) if answer else (), task=self.name, family=str(row["category"]),
            info={
                "item": index % COPY, "copy": index // COPY, "options": options,
                "l2": row.get("l2-category") or row.get("L2-category") or "",
                "row": {key: value for key, value in row.items() if key not in NOT_SUBMITTED},
            },
        )  # fmt: skip

    def ask(self, row: RawRecord, options: Sequence[str]) -> str:
        question, hint = text(row, "question"), "" if absent(row.get("hint")) else text(row, "hint")
        if self.protocol == "micro":
            return in_a_line(question, options)
        suffix = SUFFIX[self.protocol, self.chinese]
        if self.protocol == "llava":
            return "\n".join([*([hint] if hint else []), question, *lettered(options), suffix])
        stem = " ".join([*([hint] if hint else []), question, "There are several options:"])
        return "\n".join([stem, *lettered(options), suffix])

    def faults(self, samples: Sequence[Sample]) -> Iterator[str]:
        yield from super().faults(samples)
        copies: dict[int, set[int]] = {}
        for one in samples:
            copies.setdefault(one.info["item"], set()).add(one.info["copy"])
        if torn := [item for item, turns in copies.items() if turns != set(range(len(turns)))]:
            yield f"{len(torn)} questions lack their original or a rotation, for instance index {torn[0]}"

    def miscounts(self, samples: Sequence[Sample], manifest: Manifest) -> Iterator[str]:
        """Only edition 1.0 is counted, because the size of 1.1 is not published with it."""
        return super().miscounts(samples, manifest) if self.edition == "1.0" else iter(())

    def notes(self, samples: Sequence[Sample]) -> Iterator[str]:
        if len(samples) == 4377:
            yield "the earlier English dev table of 4,377 rows; today's has 4,329"

    def unit(self, sample: Sample) -> str:
        return str(sample.info["item"])

    def images(self, samples: Sequence[Sample]) -> tuple[str, ...]:
        """Name each picture by the first question about it: both languages ask the same questions."""
        first: dict[str, str] = {}
        for one in samples:
            first.setdefault(one.picture_digest, f"mmbench {self.edition} {self.part} {self.unit(one)}")
        pictures = {self.unit(one): one.picture_digest for one in samples}
        return tuple(first[picture] for picture in pictures.values())

    # Scores -------------------------------------------------------------------------------------------------

    @property
    def rule(self) -> Matcher:
        return MATCHERS[self.letters or ("lmms-eval" if self.protocol == "lmms-eval" else "vlmevalkit")]

    def credit(self, samples: Sequence[Sample], predictions: Sequence[str]) -> Sums:
        """[U] Per question: 1 if all its rotations are right, else 0."""
        pairs = zip(samples, predictions, strict=True)
        return np.array(list(circular(samples, [self.correct(*pair) for pair in pairs]).values()))

    def subscores(self, samples: Sequence[Sample], predictions: Sequence[str]) -> dict[str, float]:
        """Plain accuracy over originals, circular accuracy by ability (both levels), and rates.

        The rates are the share of answers without a letter, and circular accuracy with letters in any script.
        """
        pairs = list(zip(samples, predictions, strict=True))
        right = [self.correct(*pair) for pair in pairs]
        whole = circular(samples, right)
        originals = [one for one in samples if one.info["copy"] == 0]
        credits = [(one, whole[one.info["item"]]) for one in originals]
        found = means(
            ("vanilla", float(hit)) for one, hit in zip(samples, right, strict=True) if one.info["copy"] == 0
        )
        found[UNREADABLE] = self.unreadable(samples, predictions)
        found |= means((one.info.get("l2", ""), credit) for one, credit in credits)
        found |= means((one.family, credit) for one, credit in credits)
        if self.protocol != "micro":
            lenient = [
                nan if not one.answers else float(self.letter(one, said, any_script) == one.answers[0])
                for one, said in pairs
            ]
            found["any-script"] = 100 * float(np.mean(list(circular(samples, lenient).values())))
        return found

    def submission(
        self, samples: Sequence[Sample], predictions: Sequence[str], data: str | Path
    ) -> tuple[str, bytes]:
        """The server's input: a workbook of the table without pictures and hints, with raw predictions."""
        header = [name for name in samples[0].info["row"]]
        place = 1 + max(header.index(letter) for letter in OPTIONS if letter in header)
        rows = []
        for one, said in zip(samples, predictions, strict=True):
            values: list[str | int] = [
                "" if absent(value) else int(value) if key == "index" else str(value)
                for key, value in one.info["row"].items()
            ]
            rows.append([*values[:place], said, *values[place:]])
        return f"{self.name}-{self.part}.xlsx", workbook(
            [*header[:place], "prediction", *header[place:]], rows
        )


class MMBenchCN(MMBench):
    """The same questions in Chinese; in miniature, in a second vocabulary (MMBench-CN)."""

    name = "mmbench-cn"
    splits = {"dev": (4329,), "test": (6666,)}
    chinese = True


def circular(samples: Sequence[Sample], right: Sequence[float]) -> dict[int, float]:
    """By question, in the order of first rows: the minimum over its rotations, NaN without labels."""
    worst: dict[int, float] = {}
    for one, hit in zip(samples, right, strict=True):
        worst[one.info["item"]] = float(np.minimum(worst.get(one.info["item"], 1.0), hit))
    return worst


def absent(value: object) -> bool:
    """Return whether a field of the table is empty: missing, NaN, or the text nan or none."""
    return value is None or str(value).strip().lower() in ("", "nan", "none")


def options_of(row: Mapping[str, object]) -> tuple[str, ...]:
    """Texts of the options up to the first empty one."""
    end = next((place for place, letter in enumerate(OPTIONS) if absent(row.get(letter))), len(OPTIONS))
    return tuple(text(dict(row), letter) for letter in OPTIONS[:end])
