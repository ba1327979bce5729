"""Runs of lmms-eval, read from the output of `lmms-eval eval --log_samples --output_path RUN`.

    RUN/model/20261129_101500_samples_pope.jsonl    a line per question: doc_id, target, answer, metrics
    RUN/model/20261129_101500_results.json          model, arguments, and the harness's own scores

A metric of a line is a number, or an object with a `score`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq

from bench.evaluation.graded import GradedQuestion, GradedRun, GradedTask, Place, Suite, number
from bench.tasks.folder import LARGEST, read_lines
from compress.documents import Document, described, read, regular_file
from evosearch.registry import cut

SAMPLES = re.compile(r"(?P<date>.+?)_samples_(?P<task>.+)\.jsonl")
RESULTS = "_results.json"
NO_METRIC = {
    "doc_id", "doc", "target", "resps", "filtered_resps", "doc_hash", "prompt_hash", "target_hash", "input",
    "arguments", "token_counts", "input_media", "submission",
}  # fmt: skip
SAME = "doc_hash", "target"  # 0.7 writes one doc_hash for all questions, so prompts are compared as well
UNKNOWN = None, "", "unknown@unknown"


class _Config(Document):
    """The call of the harness. Releases differ in the type of its arguments."""

    model: str | None = None
    model_args: Any = None
    batch_size: Any = None


class _TaskConfig(Document):
    cluster_key: str | None = None


class _Results(Document):
    """The results.json of a run; releases differ in what they write."""

    results: dict[str, dict[str, Any]] | None = None
    higher_is_better: dict[str, dict[str, Any] | None] | None = None
    configs: dict[str, _TaskConfig | None] | None = None
    config: _Config | None = None
    model_name: str | None = None
    model_source: str | None = None
    lmms_eval_version: str | None = None
    transformers_version: str | None = None
    git_hash: str | None = None


class LmmsEval(Suite):
    name: ClassVar[str] = "lmms-eval"
    files: ClassVar[str] = "Parquet file or folder"

    def read(self, name: str, path: Path) -> GradedRun:
        """Read the newest log of every task below a folder, or one run's logs by its results.json or one log.

        ValueError if there is none, if it cannot be read, and if the newest logs have different models or
        arguments.
        """
        paths: dict[str, Path] = {}
        for one in sorted(_logs(path), key=lambda one: one.name):
            if found := SAMPLES.fullmatch(one.name):
                paths[found["task"]] = one
        if not paths:
            raise ValueError(
                f"{path}: no logs here (*_samples_*.jsonl): run lmms-eval with --log_samples and "
                f"--output_path, and give that folder"
            )
        tasks, facts, owner = {}, dict[str, str](), dict[str, str]()
        for task, one in paths.items():
            results = one.with_name(one.name.split("_samples_")[0] + RESULTS)
            told = read(_Results, results, LARGEST) if results.exists() else _Results()
            of_task = _facts(told)
            for key in of_task.keys() & facts.keys() & {"model", "arguments"}:
                if facts[key] != of_task[key]:
                    raise ValueError(
                        f"{path}: the newest logs are of different runs ({owner[key]}: {facts[key]}; "
                        f"{task}: {of_task[key]}): give the results.json of one, NAME=.../DATE{RESULTS}"
                    )
            facts |= of_task
            owner |= dict.fromkeys(of_task, task)
            tasks[task] = _task(one, told, task)
        return GradedRun(name, dict(sorted(tasks.items())), facts)

    def images(self, path: Path) -> Mapping[Place, str]:
        """A digest of the first image or video of each row, or of its name if the row has none.

        Rows are lmms-lab's, in the order of the files; doc_id is their position.
        """
        files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
        found: list[str] = []
        try:
            for one in files:
                with pq.ParquetFile(regular_file(one)) as file:
                    column = _image_column(one, file.schema_arrow)
                    for group in range(file.num_row_groups):
                        for value in file.read_row_group(group, columns=[column])[column].to_pylist():
                            found.append(_digest(value, len(found)))
        except (pa.ArrowException, OSError) as problem:
            raise ValueError(f"{path}: not whole Parquet files ({problem})") from problem
        if not found:
            raise ValueError(f"{path}: there are no Parquet files")
        return dict(enumerate(found))


def _logs(path: Path) -> Iterator[Path]:
    """Yield all logs below a folder, or those with the date of one file."""
    if path.is_file() and path.name.endswith(RESULTS):
        yield from path.parent.glob(f"{path.name.removesuffix(RESULTS)}_samples_*.jsonl")
    elif path.is_file():
        yield path
    else:
        yield from path.rglob("*_samples_*.jsonl")


def _task(path: Path, told: _Results, task: str) -> GradedTask:
    better = (told.higher_is_better or {}).get(task) or {}
    own = {
        key.partition(",")[0]: number(value)
        for key, value in (told.results or {}).get(task, {}).items()
        if isinstance(value, int | float) and "_stderr" not in key
    }
    config = (told.configs or {}).get(task) or _TaskConfig()
    return GradedTask(
        {place: _question(row, config.cluster_key) for place, row in _rows(path).items()}, own,
        frozenset(key for key, up in better.items() if up is False),
    )  # fmt: skip


def _rows(path: Path) -> dict[Place, Mapping[str, Any]]:
    rows: dict[Place, Mapping[str, Any]] = {}
    for line, row in enumerate(read_lines(path), 1):
        place = row.get("doc_id")
        if not isinstance(place, int) or isinstance(place, bool) or place < 0:
            raise ValueError(
                f"{path}, line {line}: doc_id is {described(place)}, but it must be a whole number"
            )
        if place in rows:
            raise ValueError(
                f"{path}, line {line}: doc_id {cut(place)} is there twice. lmms-eval logs a question once "
                f"for each filter of a task, and does not say for which"
            )
        rows[place] = row
    if not rows:
        raise ValueError(f"{path}: there are no samples in it")
    return rows


def _question(row: Mapping[str, Any], cluster: str | None) -> GradedQuestion:
    told = {name: value for name, value in row.items() if name not in NO_METRIC}
    grades = {name: _number(value) for name, value in told.items()}
    groups = [value[cluster] for value in told.values() if isinstance(value, dict) and cluster in value]
    said = row.get("filtered_resps")
    while isinstance(said, list) and said:
        said = said[0]
    return GradedQuestion(
        {name: value for name, value in grades.items() if value is not None}, str(said),
        {fact: str(row[fact]) for fact in SAME if row.get(fact) is not None},
        image=str(groups[0]) if groups else "", prompt=str(row.get("input") or ""),
    )  # fmt: skip


def _facts(told: _Results) -> dict[str, str]:
    config = told.config or _Config()
    found = {
        "model": told.model_name or told.model_source or config.model,
        "arguments": config.model_args, "batch size": config.batch_size,
        "lmms-eval": told.lmms_eval_version, "transformers": told.transformers_version,
        "git": told.git_hash,
    }  # fmt: skip
    return {key: str(value) for key, value in found.items() if value not in UNKNOWN}


def _number(value: object) -> float | None:
    """A metric of a line: a number, or the `score` of an object."""
    if isinstance(value, dict):
        value = value.get("score")
    return number(value) if isinstance(value, bool | int | float) else None


def _image_column(path: Path, schema: pa.Schema) -> str:
    """The first column of images or videos, else the first column of their names (`imageId`, `videoID`)."""
    names = [one for one in schema.names if one.lower().startswith(("image", "video"))]
    named = pa.types.is_string, pa.types.is_large_string
    contents = [one for one in names if not any(check(schema.field(one).type) for check in named)]
    if not names:
        raise ValueError(f"{path}: there is no column of images or videos")
    return (contents or names)[0]


def _digest(value: object, row: int) -> str:
    """A digest that is equal for equal images; a row without an image has its own digest."""
    while isinstance(value, list) and value:
        value = value[0]
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    if not value:
        value = f"row {row}"
    content = value if isinstance(value, bytes) else str(value).encode()
    return hashlib.sha256(content).hexdigest()[:16]
