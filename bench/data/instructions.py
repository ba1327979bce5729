"""LLaVA-1.5's instruction mixture (mix665k): what labels of a real model are searched on.

    {"id": "000000033471", "image": "coco/train2017/000000033471.jpg", "conversations": [
        {"from": "human", "value": "<image>\\nWhat are the colors of the bus in the image?"},
        {"from": "gpt", "value": "The bus in the image is white and red."}, ...]}

One JSON array of 665,298 records; 40,688 have no image, ids repeat, and some pictures of OCR-VQA are dead or
broken. A sample is therefore named by its record's position, its image is opened when it is looked at, and
what cannot be used is counted and left out.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from bench.data.images import ImageFile
from compress.samples import Sample

NAME = "mix665k"
CHUNK = 1 << 20  # characters
BETWEEN = re.compile(r"[\s,]*")  # records
# By the first folder of the image; under coco by the end of the first question. The records do not name a
# source, so these are guesses, and the first that fits counts.
FOLDERS = {"gqa": "gqa", "ocr_vqa": "ocr_vqa", "textvqa": "textcaps", "vg": "vg"}
ENDINGS = (
    ("Answer the question using a single word or phrase.", "vqa"),  # VQAv2 and OKVQA
    ("Answer with the option's letter from the given choices directly.", "a-okvqa"),
    ("region this sentence describes.", "refcoco"),
    ("description for this region.", "refcoco"),
)


def read_mixture(
    path: Path, images: Path, sources: Sequence[str] | None = None
) -> tuple[list[Sample], Counter[str]]:
    """A sample per record, its first question and answer, and how many records were left out, by reason.

    `images` is the folder that the records' image names start from; `sources` restricts to some (see
    `source`). ValueError for what is no whole JSON array.
    """
    samples: list[Sample] = []
    left_out: Counter[str] = Counter()
    for position, record in enumerate(stream(path)):
        turns = record.get("conversations") or []
        if not record.get("image"):
            left_out["text only"] += 1
        elif [turn.get("from") for turn in turns[:2]] != ["human", "gpt"]:
            left_out["no question with an answer first"] += 1
        else:
            question, answer = (turn["value"].replace("<image>", "").strip() for turn in turns[:2])
            kind = source(record["image"], question)
            if sources is not None and kind not in sources:
                left_out["other sources"] += 1
                continue
            picture = ImageFile(images, record["image"])
            info = {"position": position, "id": record.get("id"), "turns": len(turns) // 2}
            samples.append(
                Sample(f"{NAME}-{position}", picture, question, (answer,), task=NAME, family=kind, info=info)
            )
    return samples, left_out


def sound(samples: Iterable[Sample]) -> tuple[list[Sample], list[str]]:
    """Samples whose images open, and why the others do not: before a long run, and to be kept beside it."""
    good, broken = [], []
    for one in samples:
        try:
            _ = one.image
        except ValueError as problem:
            broken.append(f"{one.id}: {problem}")
        else:
            good.append(one)
    return good, broken


def source(image: str, question: str) -> str:
    """The data set that a record probably comes from."""
    folder = image.partition("/")[0]
    if folder != "coco":
        return FOLDERS.get(folder, folder)
    return next((name for ending, name in ENDINGS if question.endswith(ending)), "llava")


def stream(path: Path) -> Iterator[dict[str, Any]]:
    """Records of a JSON array that is too long to be held, one by one."""
    decoder = json.JSONDecoder()
    with path.open(encoding="utf-8") as file:
        first = next((mark for mark in iter(partial(file.read, 1), "") if not mark.isspace()), "")
        if first != "[":
            raise ValueError(f"{path}: not a JSON array of records")
        buffer, at = "", 0
        while True:
            at = BETWEEN.match(buffer, at).end()  # type: ignore[union-attr]  # it matches nothing, too
            if buffer.startswith("]", at):
                return
            try:
                record, at = decoder.raw_decode(buffer, at)
            except json.JSONDecodeError:
                if not (more := file.read(CHUNK)):
                    raise ValueError(f"{path}: the array has no end; fetch it again") from None
                buffer, at = buffer[at:] + more, 0
                continue
            yield record
