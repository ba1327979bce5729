"""MMMU (Yue et al. 2023, arXiv:2311.16502): college questions of 30 subjects, by letters and open.

    <image 1> Baxter Company has a relevant range of production between 15,000 and 30,000 units.
    What are the fixed costs per unit?
    (A) $6
    (B) $7
    Answer with the option's letter from the given choices directly.   -> B

Published results are for the validation split, 900 questions. A question with several images shows the first,
as in the authors' runner for LLaVA; lmms-eval shows all. The authors guess if an answer has no letter; this
module counts it as wrong.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping, Sequence

from bench.tasks.base import SHORT, means, normal
from bench.tasks.folder import Folder, RawRecord, text
from bench.tasks.multiple import LETTER, UNREADABLE, MultipleChoice, lettered
from compress.samples import ImageSource, Sample

FIELDS = {
    "Art and Design": ("Art", "Art_Theory", "Design", "Music"),
    "Business": ("Accounting", "Economics", "Finance", "Manage", "Marketing"),
    "Science": ("Biology", "Chemistry", "Geography", "Math", "Physics"),
    "Health and Medicine": (
        "Basic_Medical_Science", "Clinical_Medicine", "Diagnostics_and_Laboratory_Medicine", "Pharmacy",
        "Public_Health",
    ),
    "Humanities and Social Science": ("History", "Literature", "Sociology", "Psychology"),
    "Tech and Engineering": (
        "Agriculture", "Architecture_and_Engineering", "Computer_Science", "Electronics", "Energy_and_Power",
        "Materials", "Mechanical_Engineering",
    ),
}  # fmt: skip
FIELD = {subject: field for field, subjects in FIELDS.items() for subject in subjects}
CHOICE = "multiple-choice"
MARKS = ",.!?;:'"
KEYS = ("could be ", "so ", "is ", "thus ", "therefore ", "final ", "answer ", "result ")
NUMBERS = (
    r"-?\b\d{1,3}(?:,\d{3})+\b",
    r"-?\d+(?:\.\d+)?[eE][+-]?\d+",
    r"-?(?:\d+\.\d+|\.\d+|\d+\b)(?![eE][+-]?\d+)(?![,\d])",
)


def official(said: str, options: Mapping[str, str]) -> str | None:
    """The last `(A)`, else the last lone letter; in more than five words, the last text of an option."""
    return _last(said, options, ("({})", " {} "))


def lmms_eval(said: str, options: Mapping[str, str]) -> str | None:
    """As `official`, but a letter may end a word, or precede a period."""
    return _last(said, options, ("({})", "{} ", "{}."))


def _last(said: str, options: Mapping[str, str], forms: Sequence[str]) -> str | None:
    for mark in MARKS:
        said = said.strip(mark)
    padded = f" {said} "
    for form in forms:
        if there := [one for one in options if form.format(one) in padded]:
            place = form if form == forms[0] else " {} "
            return max(there, key=lambda one: padded.rfind(place.format(one)))
    words = {one: answer.lower() for one, answer in options.items()}
    there = [one for one, answer in words.items() if answer in padded.lower()]
    if len(padded.split()) <= 5 or not there:
        return None
    return max(there, key=lambda one: padded.lower().rfind(words[one]))


class MMMU(MultipleChoice):
    """College questions of 30 subjects, by letter and open (MMMU, validation)."""

    name = "mmmu"
    repository = "MMMU"
    splits = {"val": (900,)}
    rules = {"llava": official, "lmms-eval": lmms_eval}

    @property
    def max_new_tokens(self) -> int:
        return 6 if self.protocol == "micro" else 128

    def lab_files(self) -> tuple[str, ...]:
        return ("*/validation-*.parquet",)

    def lmms_lab(self, folder: Folder) -> Iterator[Sample]:
        """`{subject}/validation-*.parquet`, as the authors distribute it, or data/validation-*.parquet."""
        for row, picture in folder.rows("*", "validation", picture="image_1"):
            yield self.asked(row, picture)

    def asked(self, row: RawRecord, picture: ImageSource) -> Sample:
        key, stem, told = text(row, "id"), text(row, "question"), text(row, "options")
        subject = "_".join(key.split("_")[1:-1])
        images = len(set(re.findall(r"<image \d+>", f"{stem} {told}")))
        info = {"subject": subject, "field": FIELD.get(subject, ""), "images": images}
        if text(row, "question_type") == CHOICE:
            return self.choice(
                key, picture, stem.replace("<image 1> ", "") if self.protocol == "micro" else stem,
                listed(told), text(row, "answer"), family=CHOICE, **info,
            )  # fmt: skip
        open_end = f"{stem}\n\n{SHORT}"
        return Sample(
            id=key, picture=picture, question=stem if self.protocol == "micro" else open_end,
            answers=self.answers(text(row, "answer")), task=self.name, family="open",
            info={"options": (), **info},
        )  # fmt: skip

    def answers(self, told: str) -> tuple[str, ...]:
        """The accepted answers of an open question; lmms-eval takes the text of a list as one answer."""
        return listed(told) if told.startswith("[") and self.protocol != "lmms-eval" else (told,)

    def prompt(self, stem: str, options: Sequence[str]) -> str:
        if self.protocol == "lmms-eval":
            return "\n".join([stem, *lettered(options), "", LETTER])
        rows = "".join(f"({one[0]}) {one[3:]}\n" for one in lettered(options))
        return f"{stem}\n\n{rows}\n\n{LETTER}"

    def stratum(self, sample: Sample) -> str:
        return str(sample.info.get("subject", ""))

    def correct(self, sample: Sample, prediction: str) -> float:
        if sample.family != "open":
            return super().correct(sample, prediction)
        if self.protocol == "micro":
            return float(normal(prediction) == normal(sample.answers[0]))
        return float(contains(sample.answers, prediction))

    def unreadable(self, samples: Sequence[Sample], predictions: Sequence[str]) -> float:
        """Percentage of the answers to questions with options that mean no option."""
        pairs = [pair for pair in zip(samples, predictions, strict=True) if pair[0].family != "open"]
        return 100 * sum(self.letter(*pair) is None for pair in pairs) / max(len(pairs), 1)

    def subscores(self, samples: Sequence[Sample], predictions: Sequence[str]) -> dict[str, float]:
        """Scores by form, field and subject, and for questions with one image and with several."""
        found = super().subscores(samples, predictions)
        credits = list(zip(samples, self.credit(samples, predictions).tolist(), strict=True))
        parts = means((str(one.info.get("field", "")), credit) for one, credit in credits)
        parts |= means((self.stratum(one), credit) for one, credit in credits)
        parts |= means(
            ("one image" if one.info["images"] <= 1 else "several images", credit)
            for one, credit in credits
            if "images" in one.info
        )
        return {UNREADABLE: found.pop(UNREADABLE)} | found | parts


def listed(told: str) -> tuple[str, ...]:
    """Parse a list of texts in Python's syntax."""
    try:
        found = ast.literal_eval(told)
    except (ValueError, SyntaxError) as problem:
        raise ValueError(f"the options are no list of texts: {told[:80]!r}") from problem
    if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
        raise ValueError(f"the options are no list of texts: {told[:80]!r}")
    return tuple(found)


def contains(answers: Sequence[str], said: str) -> bool:
    """Return whether an answer to an open question contains one of the accepted ones.

    A text must occur in a text, and a number must be equal to two decimals.
    """
    true = {one for answer in answers for one in comparable(answer)}
    for part in key_parts(said):
        for one in (found for said in (part, *numbers(part)) for found in comparable(said)):
            if isinstance(one, float) and one in true:
                return True
            if isinstance(one, str) and any(isinstance(other, str) and other in one for other in true):
                return True
    return False


def key_parts(said: str) -> list[str]:
    """The text after the last "is", "answer" and the like in each line, in lower case; else all of it."""
    said = said.strip().strip(".").lower()
    lines, found = said.split("\n"), []
    for place, line in enumerate(lines):
        keys = (*KEYS, "=") if place == len(lines) - 1 else KEYS
        tails = [line.split(key)[-1].strip() for key in keys if key in line]
        if tails and (tail := _shortest(tails)) and tail not in set(MARKS):
            found.append(tail)
    return found or [said]


def _shortest(tails: Sequence[str]) -> str:
    """The first of the shortest texts; an empty text is replaced by the next one."""
    best = ""
    for tail in tails:
        if not best or len(tail) < len(best):
            best = tail
    return best


def numbers(said: str) -> list[str]:
    return [one for pattern in NUMBERS for one in re.findall(pattern, said)]


def comparable(text: str) -> list[str | float]:
    """A number rounded to two decimals; else the text in lower case, a single character with a space."""
    text = text.strip()
    try:
        return [round(float(text.replace(",", "")), 2)]
    except ValueError:
        lower = text.lower()
        return [f" {lower}", f"{lower} "] if len(lower) == 1 else [lower]
