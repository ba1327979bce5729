"""The miniature benchmarks as files of the big ones, so that the real loaders read them.

One writer per benchmark and layout; `evocomp.json` says that they are asked under protocol `micro`. Pictures
are PNG, whatever the official names end in, so that not a pixel changes.
"""

from __future__ import annotations

import csv
import json
from base64 import b64encode
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from bench.tasks import TASKS
from bench.tasks.folder import MANIFEST, Manifest
from bench.tasks.mmbench import COPY
from bench.tasks.vqav2 import ANNOTATIONS, QUESTIONS
from compress.files import new_folder, replacing
from compress.samples import Sample
from evosearch.registry import find

FileLayout = Literal["official", "lmms-lab"]
Rows = Iterable[dict[str, Any]]
GROUP = 64  # rows of a Parquet row group
IMAGES = {"huggingface": json.dumps({"info": {"features": {"image": {"_type": "Image"}}}})}  # for `datasets`
STRUCTURE = {"color": ("query", "attr"), "shape": ("query", "obj"), "relation": ("verify", "rel")}
KINDS = {"count": "number", "exist": "yes/no", "missing": "unanswerable"}


def export(
    out: Path, names: Sequence[str], n: int, layout: FileLayout = "official", split: str = "test"
) -> dict[str, int]:
    """Write `n` questions of each miniature to `out`, a folder of benchmarks; returns numbers of samples.

    ValueError if one of the tasks is there already: nothing is mixed or overwritten.
    """
    tasks = [find(TASKS, name, "task")() for name in names]
    for task in tasks:
        if (out / task.name).exists():
            raise ValueError(f"{out / task.name} exists: choose another folder, or remove it")
    before, sizes = Manifest.of(out).sizes, dict[str, int]()
    with ExitStack() as written:  # folders take their names together, when all are complete
        for task in tasks:
            samples = task.micro(n, split)
            folder = written.enter_context(new_folder(out / task.name))
            (OFFICIAL if layout == "official" else LMMS_LAB)[task.name](folder, samples)
            sizes[f"{task.name}/{task.part}"] = len(samples)
        with replacing(out / MANIFEST) as part:
            _json(part, {"protocol": "micro", "sizes": {**before, **sizes}})
    return sizes


def png(sample: Sample) -> bytes:
    file = BytesIO()
    sample.image.save(file, "PNG")
    return file.getvalue()


def seed(sample: Sample) -> int:
    """The scene's number, which names its picture."""
    return int(sample.info["seed"])


def stem(sample: Sample) -> str:
    """The question of a multiple choice without its options."""
    options = sample.info["options"]
    return sample.question.split(f" a {options[0]}")[0]


# As distributed ----------------------------------------------------------------------------------------


def _gqa(folder: Path, samples: Sequence[Sample]) -> None:
    (folder / "images").mkdir()
    for one in samples:
        (folder / "images" / f"n{seed(one)}.jpg").write_bytes(png(one))
    _json(folder / "testdev_balanced_questions.json", {one.id: _gqa_row(one) for one in samples})


def _gqa_row(one: Sample) -> dict[str, Any]:
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
            original = str(one.info["item"])  # copies name the row that has the picture
            picture = b64encode(png(one)).decode() if one.info["copy"] == 0 else original
            table.writerow(_mmbench_row(one) | {"image": picture})


def _mmbench_row(one: Sample) -> dict[str, Any]:
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
    rows = [_vqav2_row(number, one) for number, one in enumerate(samples)]
    shared = ("question_id", "image_id")
    questions = [{key: row[key] for key in (*shared, "question")} for row in rows]
    annotations = [{key: value for key, value in row.items() if key != "question"} for row in rows]
    _json(folder / QUESTIONS.format("val2014"), {"data_subtype": "val2014", "questions": questions})
    _json(folder / ANNOTATIONS.format("val2014"), {"data_subtype": "val2014", "annotations": annotations})


def _vqav2_row(number: int, one: Sample) -> dict[str, Any]:
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
    _json(folder / "val.json", rows)


def _textvqa(folder: Path, samples: Sequence[Sample]) -> None:
    (folder / "train_images").mkdir()
    for one in samples:
        (folder / "train_images" / f"{seed(one):016x}.jpg").write_bytes(png(one))
    rows = [_textvqa_row(number, one) for number, one in enumerate(samples)]
    tokens = [{"image_id": row["image_id"], "ocr_tokens": row.pop("ocr_tokens")} for row in rows]
    _json(folder / "TextVQA_0.5.1_val.json", {"dataset_type": "val", "data": rows})
    _json(folder / "TextVQA_Rosetta_OCR_v0.2_val.json", {"data": tokens})


def _textvqa_row(number: int, one: Sample) -> dict[str, Any]:
    side = one.image.size
    return {
        "image_id": f"{seed(one):016x}", "question_id": number, "question": one.question,
        "question_tokens": one.question.split(), "image_width": side[0], "image_height": side[1],
        "answers": list(one.answers), "set_name": "val", "ocr_tokens": [one.answers[0].replace(" ", "")],
    }  # fmt: skip


def _json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


# As lmms-lab has them ----------------------------------------------------------------------------------


def _table(path: Path, samples: Sequence[Sample], rows: Rows, name: Callable[[Sample], str]) -> None:
    """Rows with their pictures, a row group at a time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = None
    listed = list(zip(samples, rows, strict=True))
    for start in range(0, len(listed), GROUP):
        table = pa.Table.from_pylist(
            [
                row | {"image": {"bytes": png(one), "path": name(one)}}
                for one, row in listed[start : start + GROUP]
            ],
            schema=writer.schema if writer else None,
        ).replace_schema_metadata(IMAGES)
        writer = writer or pq.ParquetWriter(path, table.schema)
        writer.write_table(table)
    if writer:
        writer.close()


def _lab_gqa(folder: Path, samples: Sequence[Sample]) -> None:
    file, path = "testdev-00000-of-00001.parquet", folder / "testdev_balanced_instructions"
    _table(
        folder / "testdev_balanced_images" / file, samples, ({"id": f"n{seed(one)}"} for one in samples),
        lambda one: f"n{seed(one)}.jpg",
    )  # fmt: skip
    path.mkdir()
    rows = [{"id": one.id} | _gqa_row(one) | {"entailed": "[]"} for one in samples]
    pq.write_table(pa.Table.from_pylist(rows), path / file)


def _lab_pope(folder: Path, samples: Sequence[Sample]) -> None:
    rows = (
        {
            "id": str(number), "question_id": str(number), "question": one.question, "answer": one.answers[0],
            "image_source": f"COCO_val2014_{seed(one):012d}", "category": one.info["subset"],
        }
        for number, one in enumerate(samples)
    )  # fmt: skip
    _table(folder / "data" / "test-00000-of-00001.parquet", samples, rows, lambda one: f"{seed(one)}.png")


def _lab_mmbench(folder: Path, samples: Sequence[Sample], language: str = "en") -> None:
    rows = (
        {("L2-category" if key == "l2-category" else key): value for key, value in _mmbench_row(one).items()}
        for one in samples
    )
    _table(folder / language / "dev-00000-of-00001.parquet", samples, rows, lambda one: f"{seed(one)}.png")


def _lab_mmbench_cn(folder: Path, samples: Sequence[Sample]) -> None:
    _lab_mmbench(folder, samples, "cn")


def _lab_vqav2(folder: Path, samples: Sequence[Sample]) -> None:
    rows = (_vqav2_row(number, one) for number, one in enumerate(samples))
    _table(
        folder / "data" / "validation-00000-of-00001.parquet", samples, rows, lambda one: f"{seed(one)}.png"
    )


def _lab_vizwiz(folder: Path, samples: Sequence[Sample]) -> None:
    rows = (
        {
            "question_id": f"VizWiz_val_{seed(one):08d}", "question": one.question,
            "answers": list(one.answers), "category": KINDS.get(one.family, "other"),
        }
        for one in samples
    )  # fmt: skip
    _table(folder / "data" / "val-00000-of-00001.parquet", samples, rows, lambda one: f"{seed(one)}.png")


def _lab_textvqa(folder: Path, samples: Sequence[Sample]) -> None:
    rows = (_textvqa_row(number, one) for number, one in enumerate(samples))
    _table(
        folder / "data" / "validation-00000-of-00001.parquet", samples, rows, lambda one: f"{seed(one)}.png"
    )


FolderWriter = Callable[[Path, Sequence[Sample]], None]
OFFICIAL: Mapping[str, FolderWriter] = {
    "gqa": _gqa, "mmbench": _mmbench, "mmbench-cn": _mmbench_cn, "pope": _pope,
    "vqav2": _vqav2, "vizwiz": _vizwiz, "textvqa": _textvqa,
}  # fmt: skip
LMMS_LAB: Mapping[str, FolderWriter] = {
    "gqa": _lab_gqa, "mmbench": _lab_mmbench, "mmbench-cn": _lab_mmbench_cn, "pope": _lab_pope,
    "vqav2": _lab_vqav2, "vizwiz": _lab_vizwiz, "textvqa": _lab_textvqa,
}  # fmt: skip
