"""Training questions of other data sets as records of LLaVA's form, so that one reader handles all of them.

Each source reads the official files in a folder and names images as in LLaVA's layout of the image root
(there, COCO's train2014 is in coco/train2017). Questions have the prompts of LLaVA-1.5. A new source needs a
function and a line below.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.tasks.base import SHORT
from bench.tasks.folder import Folder, read_json
from bench.tasks.gqa import merged

LETTER = "Answer with the option's letter from the given choices directly."
COCO = "coco/train2017/{:012d}.jpg"
SourceRecord = dict[str, Any]
RecordReader = Callable[[Folder], Iterator[SourceRecord]]


def record(id: object, image: str, source: str, *turns: tuple[str, str]) -> SourceRecord:
    if not all(isinstance(text, str) and text.strip() for turn in turns for text in turn):
        raise TypeError(f"a question or an answer of {id} is not text")
    said = [
        {"from": role, "value": text}
        for turn in turns
        for role, text in zip(("human", "gpt"), turn, strict=True)
    ]
    said[0]["value"] = f"<image>\n{said[0]['value']}"
    return {"id": str(id), "image": image, "source": source, "conversations": said}


def short(question: str) -> str:
    return f"{question}\n{SHORT}"


def choice(question: str, options: Sequence[str]) -> str:
    lettered = [f"{letter}. {option}" for letter, option in zip("ABCDEFGH", options, strict=False)]
    return "\n".join([question, *lettered, LETTER])


def most_common(answers: Sequence[str]) -> str:
    """The most frequent answer; the first of several."""
    return Counter(answers).most_common(1)[0][0]


def gqa(folder: Folder) -> Iterator[SourceRecord]:
    """GQA: train_balanced_questions.json."""
    for id, row in merged(folder, "train_balanced_questions").items():
        yield record(id, f"gqa/images/{row['imageId']}.jpg", "gqa", (short(row["question"]), row["answer"]))


def vqa(folder: Folder, prefix: str, source: str) -> Iterator[SourceRecord]:
    """The form shared by VQA and OK-VQA: questions and annotations of COCO's train2014, joined by id."""
    questions = read_json(folder.find(f"{prefix}OpenEnded_mscoco_train2014_questions.json"))["questions"]
    annotations = read_json(folder.find(f"{prefix}mscoco_train2014_annotations.json"))["annotations"]
    answers = {row["question_id"]: [one["answer"] for one in row["answers"]] for row in annotations}
    for row in questions:
        turn = short(row["question"]), most_common(answers[row["question_id"]])
        yield record(row["question_id"], COCO.format(row["image_id"]), source, turn)


def vqav2(folder: Folder) -> Iterator[SourceRecord]:
    """VQAv2: v2_OpenEnded_mscoco_train2014_questions.json, v2_mscoco_train2014_annotations.json."""
    return vqa(folder, "v2_", "vqav2")


def okvqa(folder: Folder) -> Iterator[SourceRecord]:
    """OK-VQA: OpenEnded_mscoco_train2014_questions.json, mscoco_train2014_annotations.json."""
    return vqa(folder, "", "okvqa")


def aokvqa(folder: Folder) -> Iterator[SourceRecord]:
    """A-OKVQA: aokvqa_v1p0_train.json."""
    for row in read_json(folder.find("aokvqa_v1p0_train.json")):
        turn = choice(row["question"], row["choices"]), "ABCD"[row["correct_choice_idx"]]
        yield record(row["question_id"], COCO.format(row["image_id"]), "aokvqa", turn)


def ocrvqa(folder: Folder) -> Iterator[SourceRecord]:
    """OCR-VQA: dataset.json; split 1 is for training, all questions about a cover make one record."""
    for id, row in read_json(folder.find("dataset.json")).items():
        turns = [(short(q), str(a)) for q, a in zip(row["questions"], row["answers"], strict=True)]
        if row["split"] == 1 and turns:
            yield record(id, f"ocr_vqa/images/{id}.jpg", "ocrvqa", *turns)


def textvqa(folder: Folder) -> Iterator[SourceRecord]:
    """TextVQA: TextVQA_0.5.1_train.json."""
    for row in read_json(folder.find("TextVQA_0.5.1_train.json"))["data"]:
        turn = short(row["question"]), most_common(row["answers"])
        yield record(row["question_id"], f"textvqa/train_images/{row['image_id']}.jpg", "textvqa", turn)


def scienceqa(folder: Folder) -> Iterator[SourceRecord]:
    """ScienceQA: problems.json; of split train, those with an image."""
    for id, row in read_json(folder.find("problems.json")).items():
        if row["split"] == "train" and row["image"]:
            context = f"Context: {row['hint']}\n" if row.get("hint") else ""
            turn = context + choice(row["question"], row["choices"]), "ABCDEFGH"[row["answer"]]
            yield record(id, f"scienceqa/images/train/{id}/{row['image']}", "scienceqa", turn)


SOURCES: Mapping[str, RecordReader] = {
    one.__name__: one for one in (gqa, vqav2, okvqa, aokvqa, ocrvqa, textvqa, scienceqa)
}


def read_source(name: str, folder: Path) -> Iterator[SourceRecord]:
    """Yield the records of a source; ValueError if files are missing or have another form."""
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}: give the one with the files of {name}")
    try:
        yield from SOURCES[name](Folder(folder))
    except (KeyError, TypeError, AttributeError, IndexError, ValueError) as problem:
        if isinstance(problem, ValueError) and str(folder) in str(problem):
            raise
        raise ValueError(
            f"{folder}: a record is of another form ({type(problem).__name__}: {problem}); the files of "
            f"{name} are {(SOURCES[name].__doc__ or '').partition(': ')[2]}"
        ) from problem


def micro(n: int, images: Path) -> Iterator[SourceRecord]:
    """Yield `n` questions of the micro mixture; pictures are written below `images` on the way."""
    from bench.tasks.mixture import training_sample

    for number in range(n):
        one = training_sample(number)
        name = f"micro/images/{number:06d}.png"
        (images / name).parent.mkdir(parents=True, exist_ok=True)
        one.image.save(images / name)
        yield record(one.id, name, one.family, (one.question, one.answers[0]))
