"""Miniatures in lmms-lab's Parquet layout: one writer per benchmark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from bench.data.official import (
    KINDS,
    PRINTED,
    docvqa_row,
    gqa_row,
    mmbench_row,
    mmmu_row,
    mmstar_row,
    mvbench_rows,
    place_of,
    scienceqa_row,
    textvqa_row,
    videomme_rows,
    vqav2_row,
)  # fmt: skip
from bench.data.writing import WriteSamples, picture_name, seed, stem, write_table
from compress.samples import Sample


def _lab_gqa(folder: Path, samples: Sequence[Sample]) -> None:
    file, path = "testdev-00000-of-00001.parquet", folder / "testdev_balanced_instructions"
    write_table(
        folder / "testdev_balanced_images" / file, samples, ({"id": f"n{seed(one)}"} for one in samples),
        lambda one: f"n{seed(one)}.jpg",
    )  # fmt: skip
    path.mkdir()
    rows = [{"id": one.id} | gqa_row(one) | {"entailed": "[]"} for one in samples]
    pq.write_table(pa.Table.from_pylist(rows), path / file)


def _lab_pope(folder: Path, samples: Sequence[Sample]) -> None:
    rows = (
        {
            "id": str(number), "question_id": str(number), "question": one.question, "answer": one.answers[0],
            "image_source": f"COCO_val2014_{seed(one):012d}", "category": one.info["subset"],
        }
        for number, one in enumerate(samples)
    )  # fmt: skip
    write_table(folder / "data" / "test-00000-of-00001.parquet", samples, rows, picture_name)


def _lab_mmbench(folder: Path, samples: Sequence[Sample], language: str = "en") -> None:
    rows = (
        {("L2-category" if key == "l2-category" else key): value for key, value in mmbench_row(one).items()}
        for one in samples
    )
    write_table(folder / language / "dev-00000-of-00001.parquet", samples, rows, picture_name)


def _lab_mmbench_cn(folder: Path, samples: Sequence[Sample]) -> None:
    _lab_mmbench(folder, samples, "cn")


def _lab_vqav2(folder: Path, samples: Sequence[Sample]) -> None:
    rows = (vqav2_row(number, one) for number, one in enumerate(samples))
    write_table(folder / "data" / "validation-00000-of-00001.parquet", samples, rows, picture_name)


def _lab_vizwiz(folder: Path, samples: Sequence[Sample]) -> None:
    rows = (
        {
            "question_id": f"VizWiz_val_{seed(one):08d}", "question": one.question,
            "answers": list(one.answers), "category": KINDS.get(one.family, "other"),
        }
        for one in samples
    )  # fmt: skip
    write_table(folder / "data" / "val-00000-of-00001.parquet", samples, rows, picture_name)


def _lab_textvqa(folder: Path, samples: Sequence[Sample]) -> None:
    rows = (textvqa_row(number, one) for number, one in enumerate(samples))
    write_table(folder / "data" / "validation-00000-of-00001.parquet", samples, rows, picture_name)


def _lab_mme(folder: Path, samples: Sequence[Sample]) -> None:
    rows = (
        {
            "question_id": f"{one.info['category']}/{picture_name(one)}", "category": one.info["category"],
            "question": f"{one.question} Please answer yes or no.", "answer": one.answers[0].capitalize(),
        }
        for one in samples
    )  # fmt: skip
    write_table(folder / "data" / "test-00000-of-00001.parquet", samples, rows, picture_name)


def _lab_scienceqa(folder: Path, samples: Sequence[Sample]) -> None:
    path = folder / "ScienceQA-IMG" / "test-00000-of-00001.parquet"
    write_table(path, samples, map(scienceqa_row, samples), picture_name)


def _lab_ocrbench(folder: Path, samples: Sequence[Sample]) -> None:
    rows = (
        {
            "dataset": "micro", "question": one.question, "question_type": PRINTED,
            "answer": list(one.answers),
        }
        for one in samples
    )  # fmt: skip
    write_table(folder / "data" / "test-00000-of-00001.parquet", samples, rows, picture_name)


def _lab_chartqa(folder: Path, samples: Sequence[Sample]) -> None:
    rows = (
        {
            "type": ("human_test", "augmented_test")[number % 2], "question": one.question,
            "answer": one.answers[0],
        }
        for number, one in enumerate(samples)
    )  # fmt: skip
    write_table(folder / "data" / "test-00000-of-00001.parquet", samples, rows, picture_name)


def _lab_docvqa(folder: Path, samples: Sequence[Sample]) -> None:
    rows = (docvqa_row(number, one) | {"questionId": str(number)} for number, one in enumerate(samples))
    path = folder / "DocVQA" / "validation-00000-of-00001.parquet"
    write_table(path, samples, rows, picture_name)


def _lab_ai2d(folder: Path, samples: Sequence[Sample]) -> None:
    rows = (
        {"question": stem(one), "options": list(one.info["options"]), "answer": str(place_of(one))}
        for one in samples
    )
    write_table(folder / "data" / "test-00000-of-00001.parquet", samples, rows, picture_name)


def _lab_mmstar(folder: Path, samples: Sequence[Sample]) -> None:
    rows = (mmstar_row(number, one) for number, one in enumerate(samples))
    write_table(folder / "data" / "val-00000-of-00001.parquet", samples, rows, picture_name)


def _lab_mmmu(folder: Path, samples: Sequence[Sample]) -> None:
    rows = (mmmu_row(number, one) for number, one in enumerate(samples))
    path = folder / "data" / "validation-00000-of-00001.parquet"
    write_table(path, samples, rows, picture_name, "image_1")


def _lab_mvbench(folder: Path, samples: Sequence[Sample]) -> None:
    for kind, rows in mvbench_rows(folder, samples).items():
        (folder / kind).mkdir()
        pq.write_table(pa.Table.from_pylist(rows), folder / kind / "train-00000-of-00001.parquet")


def _lab_videomme(folder: Path, samples: Sequence[Sample]) -> None:
    (folder / "videomme").mkdir()
    rows = videomme_rows(folder, samples)
    pq.write_table(pa.Table.from_pylist(rows), folder / "videomme" / "test-00000-of-00001.parquet")


LMMS_LAB: Mapping[str, WriteSamples] = {
    "gqa": _lab_gqa, "mmbench": _lab_mmbench, "mmbench-cn": _lab_mmbench_cn, "pope": _lab_pope,
    "vqav2": _lab_vqav2, "vizwiz": _lab_vizwiz, "textvqa": _lab_textvqa, "mme": _lab_mme,
    "scienceqa": _lab_scienceqa, "ocrbench": _lab_ocrbench, "chartqa": _lab_chartqa, "docvqa": _lab_docvqa,
    "ai2d": _lab_ai2d, "mmstar": _lab_mmstar, "mmmu": _lab_mmmu, "mvbench": _lab_mvbench,
    "video-mme": _lab_videomme,
}  # fmt: skip
