"""GQA (Hudson and Manning 2019, arXiv:1902.09506): open questions on attributes and relations, exact match.

    Is the star left of the circle?
    Answer the question using a single word or phrase.   -> yes

Official: 12,578 balanced questions of testdev; a prediction is right if it equals the lower-case answer
exactly. LLaVA's scripts first lower the case and strip trailing periods, lmms-eval strips all punctuation.
"""

from __future__ import annotations

import json
import string
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from bench.tasks.base import SHORT, Sums, Task, means, normal
from bench.tasks.folder import Folder, RawRecord, identifier, read_json, text
from compress.samples import ImageSource, Sample

FILES = {
    "testdev": "testdev_balanced",
    "testdev-all": "testdev_all",
    "val": "val_balanced",
    "train": "train_balanced",
}


class GQA(Task):
    """Open attribute and relation questions, exact match (GQA)."""

    name = "gqa"
    metric = "accuracy"
    submits = True
    repository = "GQA"
    splits = {"testdev": (12578,), "testdev-all": (172174,), "val": (132062,), "train": (943000,)}
    headline = ("binary", "open")

    @property
    def max_new_tokens(self) -> int:
        return {"micro": 6, "llava": 128, "lmms-eval": 16}[self.protocol]

    def official_files(self) -> tuple[str, ...]:
        return (f"{FILES[self.part]}_questions*",)

    def lab_files(self) -> tuple[str, ...]:
        return (f"{FILES[self.part]}_instructions/*.parquet",)

    def official(self, folder: Folder) -> Iterator[Sample]:
        """`{split}_questions.json` and images/; the file of choices is read if it exists."""
        stem = f"{FILES[self.part]}_questions"
        records = merged(folder, stem)
        choices = folder.path / f"{FILES[self.part].partition('_')[0]}_choices.json"
        allowed = read_json(choices) if choices.is_file() else {}
        for key, row in records.items():
            yield self.asked(
                key, row, folder.image("images", f"{text(row, 'imageId')}.jpg"), allowed.get(key)
            )

    def lmms_lab(self, folder: Folder) -> Iterator[Sample]:
        """`{split}_instructions/`, joined by image id to `{split}_images/`."""
        config, split = FILES[self.part], self.part.partition("-")[0]
        pictures = {row["id"]: picture for row, picture in folder.rows(f"{config}_images", split)}
        for row, _ in folder.rows(f"{config}_instructions", split):
            if row["imageId"] not in pictures:
                raise ValueError(f"{folder.path}: no image for id '{row['imageId']}'")
            yield self.asked(identifier(row, "id"), row, pictures[row["imageId"]])

    def asked(
        self, key: str, row: RawRecord, picture: ImageSource, choices: RawRecord | None = None
    ) -> Sample:
        types, groups = row.get("types") or {}, row.get("groups") or {}
        return Sample(
            id=key, picture=picture, question=prompt(text(row, "question"), self.protocol),
            answers=(text(row, "answer"),), task=self.name, family=types.get("structural") or "",
            info={
                "semantic": types.get("semantic"), "group": groups.get("global"),
                "balanced": bool(row.get("isBalanced", True)), "entailed": listed(row.get("entailed")),
                "words": len(row["question"].split()), "steps": len(listed(row.get("semantic"))),
                "choices": choices, "image": row["imageId"],
            },
        )  # fmt: skip

    def correct(self, sample: Sample, prediction: str) -> float:
        return float(matches(sample.answers[0], prediction, self.protocol))

    def statistics(self, samples: Sequence[Sample], predictions: Sequence[str]) -> Sums:
        """[U, 2]: credit and 1 for balanced questions, zeros for the others."""
        counts = np.array([one.info.get("balanced", True) for one in samples], float)
        return np.stack([self.credit(samples, predictions) * counts, counts], 1)

    def subscores(self, samples: Sequence[Sample], predictions: Sequence[str]) -> dict[str, float]:
        """Scores of the official tool: by type, words and steps; consistency and distribution.

        Distribution is chi-square (lower is better, no percentage). Validity and plausibility are added if
        the choices are known.
        """
        credits = self.credit(samples, predictions).tolist()
        triples = list(zip(samples, predictions, credits, strict=True))
        counted = [(one, credit) for one, _, credit in triples if one.info.get("balanced", True)]
        found = means((one.family, credit) for one, credit in counted)
        if "semantic" not in samples[0].info:
            return found  # the miniature
        found |= means(("open" if one.family == "query" else "binary", credit) for one, credit in counted)
        found |= means((one.info["semantic"] or "", credit) for one, credit in counted)
        found |= means((f"{one.info['words']} words", credit) for one, credit in counted)
        found |= means((f"{one.info['steps']} steps", credit) for one, credit in counted)
        by_id = {one.id: credit for one, _, credit in triples}
        if entailed := [
            fmean(known)
            for one, credit in counted
            if credit and (known := [by_id[i] for i in one.info["entailed"] if i in by_id and i != one.id])
        ]:
            found["consistency"] = 100 * fmean(entailed)
        said = [(one, tidy(text)) for one, text, _ in triples if one.info.get("balanced", True)]
        for name, kind in (("validity", "valid"), ("plausibility", "plausible")):
            if known := [(one, text) for one, text in said if one.info["choices"]]:
                found[name] = 100 * fmean(text in one.info["choices"][kind] for one, text in known)
        if grouped := [(one.info["group"], one.answers[0], text) for one, text in said if one.info["group"]]:
            found["distribution"] = distribution(grouped)
        return found

    def submission(
        self, samples: Sequence[Sample], predictions: Sequence[str], data: str | Path
    ) -> tuple[str, bytes]:
        """The input of the official tool: an array of {questionId, prediction}."""
        rows = [
            {"questionId": one.id, "prediction": tidy(text)}
            for one, text in zip(samples, predictions, strict=True)
        ]
        return f"{FILES[self.part]}_predictions.json", json.dumps(rows).encode()


def prompt(question: str, protocol: str) -> str:
    return question if protocol == "micro" else f"{question}\n{SHORT}"


def tidy(text: str) -> str:
    """LLaVA's post-processing: no trailing periods, lower case."""
    return text.rstrip(".").lower()


def matches(answer: str, said: str, protocol: str) -> bool:
    if protocol == "lmms-eval":
        bare = str.maketrans("", "", string.punctuation)
        return answer.lower().translate(bare) == said.lower().translate(bare)
    return tidy(said) == answer if protocol == "llava" else normal(said) == normal(answer)


def distribution(grouped: Sequence[tuple[str, str, str]]) -> float:
    """Chi-square of predicted against true answers, a mean over groups weighted by their size.

    Takes (group, answer, prediction) of every question.
    """
    true: dict[str, Counter[str]] = {}
    said: dict[str, Counter[str]] = {}
    for group, answer, prediction in grouped:
        true.setdefault(group, Counter())[answer] += 1
        said.setdefault(group, Counter())[prediction] += 1
    total = sum(
        counts.total() * sum((said[group][a] - n) ** 2 / n for a, n in counts.items())
        for group, counts in true.items()
    )
    return total / len(grouped)


def merged(folder: Folder, stem: str) -> Mapping[str, RawRecord]:
    """Questions by id from `stem`.json, or from the numbered chunks in the folder `stem`."""
    path = folder.find(f"{stem}.json", stem)
    chunks = sorted(path.glob(f"{stem}_*.json")) if path.is_dir() else [path]
    found: dict[str, RawRecord] = {}
    for chunk in chunks:
        content = read_json(chunk)
        if not isinstance(content, dict):
            raise ValueError(f"{chunk}: GQA's questions must be an object with question ids as keys")
        if again := found.keys() & content.keys():
            raise ValueError(f"{chunk}: question '{min(again)}' is in another chunk, too")
        found |= content
    return found


def listed(value: Any) -> list[Any]:
    """A list, which lmms-lab may have stored as text."""
    if isinstance(value, str):
        value = json.loads(value.replace("'", '"')) if value.strip() else []
    return list(value or [])
