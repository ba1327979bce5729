"""Miniatures in the official file formats of the benchmarks: one writer per benchmark."""

from __future__ import annotations

import csv
import json
from base64 import b64encode
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.data.writing import (
    WriteSamples,
    moving_png,
    picture_name,
    png,
    seed,
    stem,
    write_json,
    write_table,
)
from bench.tasks.ai2d import IDS as AI2D_IDS
from bench.tasks.mmbench import COPY
from bench.tasks.mme import ROOT as MME_ROOT
from bench.tasks.mvbench import KINDS as MVBENCH_KINDS
from bench.tasks.videomme import FILE as VIDEOMME_FILE
from bench.tasks.videomme import LENGTHS
from bench.tasks.vqav2 import ANNOTATIONS, QUESTIONS
from compress.micro.language import COUNTS, LETTERS
from compress.micro.video_language import WAYS, WHEN
from compress.micro.world import COLORS
from compress.samples import Sample

STRUCTURE = {"color": ("query", "attr"), "shape": ("query", "obj"), "relation": ("verify", "rel")}
KINDS = {"count": "number", "exist": "yes/no", "missing": "unanswerable"}
PRINTED = "Regular Text Recognition"


def _gqa(folder: Path, samples: Sequence[Sample]) -> None:
    (folder / "images").mkdir()
    for one in samples:
        (folder / "images" / f"n{seed(one)}.jpg").write_bytes(png(one))
    write_json(folder / "testdev_balanced_questions.json", {one.id: gqa_row(one) for one in samples})


def gqa_row(one: Sample) -> dict[str, Any]:
    structural, semantic = STRUCTURE[one.family]
    return {
        "imageId": f"n{seed(one)}", "question": one.question, "answer": one.answers[0],
        "fullAnswer": one.answers[0], "isBalanced": True, "groups": {"global": one.family, "local": None},
        "entailed": [], "equivalent": [one.id],
        "types": {"structural": structural, "semantic": semantic, "detailed": one.family},
        "semantic": [{"operation": "select", "argument": one.family, "dependencies": []}],
        "semanticStr": "select",
    }  # fmt: skip


def _pope(folder: Path, samples: Sequence[Sample]) -> None:
    (folder / "val2014").mkdir()
    lines: dict[str, list[str]] = {name: [] for name in ("random", "popular", "adversarial")}
    for one in samples:
        image = f"COCO_val2014_{seed(one):012d}.jpg"
        (folder / "val2014" / image).write_bytes(png(one))
        mine = lines[one.info["subset"]]
        row = {
            "question_id": len(mine) + 1, "image": image, "text": one.question, "label": one.answers[0],
            "image_id": seed(one),
        }  # fmt: skip
        mine.append(json.dumps(row) + "\n")
    for name, written in lines.items():
        (folder / f"coco_pope_{name}.json").write_text("".join(written))


def _mmbench(folder: Path, samples: Sequence[Sample], language: str = "EN") -> None:
    columns = "index question hint A B C D answer category image source l2-category comment split".split()
    with (folder / f"MMBench_DEV_{language}.tsv").open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, columns, delimiter="\t", lineterminator="\n")
        table.writeheader()
        for one in samples:
            original = str(one.info["item"])  # copies name the row with the picture
            picture = b64encode(png(one)).decode() if one.info["copy"] == 0 else original
            table.writerow(mmbench_row(one) | {"image": picture})


def mmbench_row(one: Sample) -> dict[str, Any]:
    return {
        "index": one.info["item"] + COPY * one.info["copy"], "question": stem(one), "hint": "",
        **dict(zip("ABCD", one.info["options"], strict=True)), "answer": one.answers[0].upper(),
        "category": one.family, "source": "micro", "l2-category": one.family, "comment": "", "split": "dev",
    }  # fmt: skip


def _mmbench_cn(folder: Path, samples: Sequence[Sample]) -> None:
    _mmbench(folder, samples, "CN")


def _vqav2(folder: Path, samples: Sequence[Sample]) -> None:
    (folder / "val2014").mkdir()
    for one in samples:
        (folder / "val2014" / f"COCO_val2014_{seed(one):012d}.jpg").write_bytes(png(one))
    rows = [vqav2_row(number, one) for number, one in enumerate(samples)]
    shared = ("question_id", "image_id")
    questions = [{key: row[key] for key in (*shared, "question")} for row in rows]
    annotations = [{key: value for key, value in row.items() if key != "question"} for row in rows]
    write_json(folder / QUESTIONS.format("val2014"), {"data_subtype": "val2014", "questions": questions})
    told = {"data_subtype": "val2014", "annotations": annotations}
    write_json(folder / ANNOTATIONS.format("val2014"), told)


def vqav2_row(number: int, one: Sample) -> dict[str, Any]:
    return {
        "question_id": number, "image_id": seed(one), "question": one.question,
        "question_type": " ".join(one.question.split()[:2]), "answer_type": KINDS.get(one.family, "other"),
        "multiple_choice_answer": one.answers[0],
        "answers": [
            {"answer": answer, "answer_confidence": "yes", "answer_id": place}
            for place, answer in enumerate(one.answers, 1)
        ],
    }  # fmt: skip


def _vizwiz(folder: Path, samples: Sequence[Sample]) -> None:
    (folder / "val").mkdir()
    rows = []
    for one in samples:
        image = f"VizWiz_val_{seed(one):08d}.jpg"
        (folder / "val" / image).write_bytes(png(one))
        humans = [{"answer": answer, "answer_confidence": "yes"} for answer in one.answers]
        rows.append(
            {
                "image": image, "question": one.question, "answers": humans,
                "answer_type": KINDS.get(one.family, "other"), "answerable": int(one.family != "missing"),
            }
        )  # fmt: skip
    write_json(folder / "val.json", rows)


def _textvqa(folder: Path, samples: Sequence[Sample]) -> None:
    (folder / "train_images").mkdir()
    for one in samples:
        (folder / "train_images" / f"{seed(one):016x}.jpg").write_bytes(png(one))
    rows = [textvqa_row(number, one) for number, one in enumerate(samples)]
    tokens = [{"image_id": row["image_id"], "ocr_tokens": row.pop("ocr_tokens")} for row in rows]
    write_json(folder / "TextVQA_0.5.1_val.json", {"dataset_type": "val", "data": rows})
    write_json(folder / "TextVQA_Rosetta_OCR_v0.2_val.json", {"data": tokens})


def textvqa_row(number: int, one: Sample) -> dict[str, Any]:
    side = one.image.size
    return {
        "image_id": f"{seed(one):016x}", "question_id": number, "question": one.question,
        "question_tokens": one.question.split(), "image_width": side[0], "image_height": side[1],
        "answers": list(one.answers), "set_name": "val", "ocr_tokens": [one.answers[0].replace(" ", "")],
    }  # fmt: skip


def _mme(folder: Path, samples: Sequence[Sample]) -> None:
    for one in samples:
        place = folder / MME_ROOT / one.info["category"]
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{seed(one)}.png").write_bytes(png(one))
        with (place / f"{seed(one)}.txt").open("a") as file:
            file.write(f"{one.question} Please answer yes or no.\t{one.answers[0].capitalize()}\n")


def _scienceqa(folder: Path, samples: Sequence[Sample]) -> None:
    for number, one in enumerate(samples):
        place = folder / "images" / "test" / str(number)
        place.mkdir(parents=True)
        (place / "image.png").write_bytes(png(one))
    problems = {str(n): scienceqa_row(one) | {"image": "image.png"} for n, one in enumerate(samples)}
    write_json(folder / "problems.json", problems)
    write_json(folder / "pid_splits.json", {"test": list(problems)})


def scienceqa_row(one: Sample) -> dict[str, Any]:
    return {
        "question": stem(one), "choices": list(one.info["options"]), "answer": place_of(one), "hint": "",
        "task": "closed choice", "grade": "grade2", "subject": "natural science",
    }  # fmt: skip


def place_of(one: Sample) -> int:
    """The index of the correct option."""
    return LETTERS.index(one.answers[0])


def _ocrbench(folder: Path, samples: Sequence[Sample]) -> None:
    images = folder / "OCRBench_Images" / "micro"
    images.mkdir(parents=True)
    rows = []
    for number, one in enumerate(samples):
        (images / picture_name(one)).write_bytes(png(one))
        rows.append(
            {
                "dataset_name": "micro", "id": number, "image_path": f"micro/{picture_name(one)}",
                "question": one.question, "answers": one.answers[0], "type": PRINTED,
            }
        )  # fmt: skip
    write_json(folder / "OCRBench.json", rows)


def _chartqa(folder: Path, samples: Sequence[Sample]) -> None:
    (folder / "test" / "png").mkdir(parents=True)
    for one in samples:
        (folder / "test" / "png" / picture_name(one)).write_bytes(png(one))
    for turn, kind in enumerate(("human", "augmented")):
        rows = [
            {"imgname": picture_name(one), "query": one.question, "label": one.answers[0]}
            for one in samples[turn::2]
        ]
        write_json(folder / "test" / f"test_{kind}.json", rows)


def _docvqa(folder: Path, samples: Sequence[Sample]) -> None:
    (folder / "documents").mkdir()
    rows = []
    for number, one in enumerate(samples):
        row = docvqa_row(number, one)
        name = f"{row['ucsf_document_id']}_{row['ucsf_document_page_no']}.png"
        (folder / "documents" / name).write_bytes(png(one))
        rows.append(row | {"image": f"documents/{name}"})
    write_json(folder / "val_v1.0_withQT.json", {"dataset_name": "micro", "data": rows})


def docvqa_row(number: int, one: Sample) -> dict[str, Any]:
    return {
        "questionId": number, "question": one.question, "question_types": ["handwritten"], "docId": number,
        "ucsf_document_id": f"micro{seed(one)}", "ucsf_document_page_no": "1", "answers": list(one.answers),
        "data_split": "val",
    }  # fmt: skip


def _ai2d(folder: Path, samples: Sequence[Sample]) -> None:
    (folder / "images").mkdir()
    (folder / "questions").mkdir()
    for number, one in enumerate(samples):
        name = f"{seed(one)}.png"
        (folder / "images" / name).write_bytes(png(one))
        told = {
            "abcLabel": False, "answerTexts": list(one.info["options"]), "correctAnswer": place_of(one),
            "questionId": f"{name}-{number}",
        }  # fmt: skip
        write_json(folder / "questions" / f"{name}.json", {"imageName": name, "questions": {stem(one): told}})
    (folder / AI2D_IDS).write_text("".join(f"{seed(one)}\n" for one in samples))


def _mmstar(folder: Path, samples: Sequence[Sample]) -> None:
    rows = (mmstar_row(number, one) for number, one in enumerate(samples))
    write_table(folder / "mmstar.parquet", samples, rows, picture_name)


def mmstar_row(number: int, one: Sample) -> dict[str, Any]:
    options = ", ".join(f"{letter}: {text}" for letter, text in zip("ABCD", one.info["options"], strict=True))
    return {
        "index": number, "question": f"{stem(one)}\nOptions: {options}", "answer": one.answers[0].upper(),
        "category": "fine-grained perception", "l2_category": "recognition",
    }  # fmt: skip


def _mmmu(folder: Path, samples: Sequence[Sample]) -> None:
    rows = (mmmu_row(number, one) for number, one in enumerate(samples))
    path = folder / "Art" / "validation-00000-of-00001.parquet"
    write_table(path, samples, rows, picture_name, "image_1")


def mmmu_row(number: int, one: Sample) -> dict[str, Any]:
    return {
        "id": f"validation_Art_{number + 1}", "question": f"<image 1> {stem(one)}",
        "options": repr(list(one.info["options"])), "answer": one.answers[0].upper(),
        "question_type": "multiple-choice", "subfield": one.family,
    }  # fmt: skip


def _mvbench(folder: Path, samples: Sequence[Sample]) -> None:
    (folder / "json").mkdir()
    for kind, rows in mvbench_rows(folder, samples).items():
        write_json(folder / "json" / f"{kind}.json", rows)


def mvbench_rows(folder: Path, samples: Sequence[Sample]) -> dict[str, list[dict[str, Any]]]:
    """Records by kind; their videos are written below video/."""
    found: dict[str, list[dict[str, Any]]] = {}
    for one in samples:
        kind, name = mvbench_kind(one), f"{seed(one)}.mp4"
        place = folder / "video" / MVBENCH_KINDS[kind].whole
        place.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(moving_png(one))
        row = {
            "video": name, "question": stem(one), "candidates": list(one.info["options"]),
            "answer": one.info["options"][place_of(one)],
        }  # fmt: skip
        found.setdefault(kind, []).append(row)
    return found


def mvbench_kind(one: Sample) -> str:
    """The kind of question that fits the options: directions, counts, colours or shapes."""
    option = one.info["options"][0]
    if option in WAYS:
        return "moving_direction"
    if option in COUNTS:
        return "moving_count"
    later = any(word in one.question.split() for word in WHEN)
    if option in COLORS:
        return "state_change" if later else "moving_attribute"
    return "character_order" if later else "object_existence"


def _videomme(folder: Path, samples: Sequence[Sample]) -> None:
    videos: dict[str, dict[str, Any]] = {}
    for row in videomme_rows(folder, samples):
        video = {
            "video_id": row["video_id"], "duration_category": row["duration"],
            "video_category": row["domain"], "video_subcategory": row["sub_category"], "url": row["url"],
            "questions": [],
        }  # fmt: skip
        asked = {name: row[name] for name in ("question_id", "task_type", "question", "answer")}
        videos.setdefault(row["video_id"], video)["questions"].append(asked | {"choices": row["options"]})
    write_json(folder / VIDEOMME_FILE, list(videos.values()))


def videomme_rows(folder: Path, samples: Sequence[Sample]) -> list[dict[str, Any]]:
    """One record per question; its video is written below data/."""
    (folder / "data").mkdir()
    rows: list[dict[str, Any]] = []
    for number, one in enumerate(samples):
        name = f"clip{seed(one)}"
        (folder / "data" / f"{name}.mp4").write_bytes(moving_png(one))
        options = zip("ABCD", one.info["options"], strict=True)
        rows.append(
            {
                "video_id": f"{number:03d}", "duration": LENGTHS[number % 3], "domain": "Knowledge",
                "sub_category": "Technology", "url": f"https://www.youtube.com/watch?v={name}",
                "videoID": name, "question_id": f"{number:03d}-1", "task_type": "Temporal Perception",
                "question": stem(one), "options": [f"{letter}. {text}" for letter, text in options],
                "answer": one.answers[0].upper(),
            }
        )  # fmt: skip
    return rows


OFFICIAL: Mapping[str, WriteSamples] = {
    "gqa": _gqa, "mmbench": _mmbench, "mmbench-cn": _mmbench_cn, "pope": _pope, "vqav2": _vqav2,
    "vizwiz": _vizwiz, "textvqa": _textvqa, "mme": _mme, "scienceqa": _scienceqa, "ocrbench": _ocrbench,
    "chartqa": _chartqa, "docvqa": _docvqa, "ai2d": _ai2d, "mmstar": _mmstar, "mmmu": _mmmu,
    "mvbench": _mvbench, "video-mme": _videomme,
}  # fmt: skip
