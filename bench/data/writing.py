"""Helpers shared by the writers of miniatures: pictures, numbers of scenes, and files."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from compress.samples import Sample
from compress.video import Video

Rows = Iterable[dict[str, Any]]
WriteSamples = Callable[[Path, Sequence[Sample]], None]  # into a folder of its own
GROUP = 64  # rows of a Parquet row group


def png(sample: Sample) -> bytes:
    file = BytesIO()
    sample.image.save(file, "PNG")
    return file.getvalue()


def moving_png(sample: Sample) -> bytes:
    """All frames of a video as an animated PNG without loss, each with its duration."""
    video = sample.visual
    assert isinstance(video, Video)
    first, *others = video.frames
    file = BytesIO()
    first.save(file, "PNG", save_all=True, append_images=others, duration=round(1000 * video.step))
    return file.getvalue()


def seed(sample: Sample) -> int:
    """The number of the scene, which is the name of its picture."""
    return int(sample.info["seed"])


def stem(sample: Sample) -> str:
    """The question of a multiple choice without its options."""
    options = sample.info["options"]
    return sample.question.split(f" a {options[0]}")[0]


def write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def write_table(
    path: Path, samples: Sequence[Sample], rows: Rows, name: Callable[[Sample], str], column: str = "image"
) -> None:
    """Write rows with their pictures in `column`, one row group at a time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    features = {"info": {"features": {column: {"_type": "Image"}}}}  # for `datasets`
    writer = None
    listed = list(zip(samples, rows, strict=True))
    for start in range(0, len(listed), GROUP):
        table = pa.Table.from_pylist(
            [
                row | {column: {"bytes": png(one), "path": name(one)}}
                for one, row in listed[start : start + GROUP]
            ],
            schema=writer.schema if writer else None,
        ).replace_schema_metadata({"huggingface": json.dumps(features)})
        writer = writer or pq.ParquetWriter(path, table.schema)
        writer.write_table(table)
    if writer:
        writer.close()


def picture_name(sample: Sample) -> str:
    return f"{seed(sample)}.png"
