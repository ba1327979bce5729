"""Runs of lmms-eval as a comparison: from what `lmms-eval eval --log_samples --output_path RUN` left behind.

    RUN/model/20261129_101500_samples_pope.jsonl    a line per question: doc_id, target, answer, metrics
    RUN/model/20261129_101500_results.json          model, arguments, and the harness's own scores

Any task will do whose lines hold a metric between 0 and 1: a number, or an object with a `score`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bench.evaluation.cells import Cell, CellKey
from bench.evaluation.comparison import VANILLA, Comparison, Group, assemble
from bench.evaluation.evaluate import Outcome
from bench.evaluation.origin import Origin
from bench.evaluation.stats import MARGIN
from bench.tasks.base import Task
from bench.tasks.folder import read_json, read_lines
from evosearch.registry import listed, unknown

SAMPLES = re.compile(r"(?P<date>.+?)_samples_(?P<task>.+)\.jsonl")
NO_METRIC = {
    "doc_id", "doc", "target", "resps", "filtered_resps", "doc_hash", "prompt_hash", "target_hash", "input",
    "arguments", "token_counts", "submission",
}  # fmt: skip
APART = 0.05  # points between our mean and the harness's score that are told


class Logged(Task):
    """A task of lmms-eval; its score is the mean of a metric over the questions."""

    metric = ""


@dataclass(frozen=True)
class LoggedTask:
    """What one run said on one task, by doc_id; `own` are the harness's scores by metric."""

    rows: Mapping[int, Mapping[str, Any]]
    own: Mapping[str, float] = field(default_factory=dict)
    lower: frozenset[str] = frozenset()  # metrics of which less is better

    def values(self, metric: str) -> dict[int, float]:
        """The metric of each question that has it."""
        told = {place: _number(row.get(metric)) for place, row in self.rows.items()}
        return {place: value for place, value in told.items() if value is not None}

    def metrics(self) -> list[str]:
        """Those that can be averaged, best first: of most questions, then in the log's order."""
        names = dict.fromkeys(name for row in self.rows.values() for name in row if name not in NO_METRIC)
        counts = {name: len(self.values(name)) for name in names}
        return sorted((name for name in names if counts[name]), key=lambda name: -counts[name])


@dataclass(frozen=True)
class LoggedRun:
    """All tasks of one run, and what results.json says of the model."""

    name: str
    logs: Mapping[str, LoggedTask]
    facts: Mapping[str, str]

    @classmethod
    def read(cls, name: str, folder: Path) -> LoggedRun:
        """The newest log of every task below a folder; ValueError for none, and for what cannot be read."""
        paths: dict[str, Path] = {}
        for path in sorted(folder.rglob("*_samples_*.jsonl"), key=lambda path: path.name):
            if found := SAMPLES.fullmatch(path.name):
                paths[found["task"]] = path
        if not paths:
            raise ValueError(
                f"{folder}: no logs here (*_samples_*.jsonl): run lmms-eval with --log_samples and "
                f"--output_path, and give that folder"
            )
        logs, facts = {}, dict[str, str]()
        for task, path in paths.items():
            results = path.with_name(path.name.split("_samples_")[0] + "_results.json")
            told = read_json(results) if results.is_file() else {}
            better = told.get("higher_is_better", {}).get(task) or {}
            own = {
                key.partition(",")[0]: float(value)
                for key, value in told.get("results", {}).get(task, {}).items()
                if isinstance(value, int | float) and "_stderr" not in key
            }
            lower = frozenset(key for key, up in better.items() if up is False)
            logs[task] = LoggedTask(_rows(path), own, lower)
            facts |= _facts(told)
        return cls(name, dict(sorted(logs.items())), facts)


def read_logs(
    folders: Mapping[str, Path],
    *,
    images: Mapping[str, Path] | None = None,
    metrics: Mapping[str, str] | None = None,
    reference: str | None = None,
    difficulty: str | None = None,
    margin: float = MARGIN,
    title: str = "",
) -> tuple[Comparison, Origin]:
    """A comparison of runs by name; the first is the baseline, which the table calls `none`.

    `images` name, by task, lmms-lab's Parquet files of it: questions about equal images are drawn together
    by the intervals. `metrics` choose a metric by task (default: the first that all questions have).
    ValueError for runs that did not answer the same questions, and for metrics that are not between 0 and 1
    or of which less is better.
    """
    runs = [LoggedRun.read(name, folder) for name, folder in folders.items()]
    baseline, *others = runs
    if not others:
        raise ValueError("one run alone cannot be compared: give the baseline's folder and another one")
    for option, asked in (("--images", images or {}), ("--metric", metrics or {})):
        for named in asked:
            if named not in baseline.logs:
                raise ValueError(f"{option}: {unknown('task of these logs', named, baseline.logs)}")
    for option, chosen in (("--reference", reference), ("--difficulty", difficulty)):
        if chosen is not None and chosen not in [run.name for run in others]:
            raise ValueError(f"{option}: {unknown('run', chosen, [run.name for run in others])}")
    tasks: list[Task] = []
    cells: dict[CellKey, Cell] = {}
    remarks = [f"From logs of lmms-eval. {VANILLA} is the run {baseline.name}."]
    own_images: list[str] = []
    for name, log in baseline.logs.items():
        metric = _metric(name, log, (metrics or {}).get(name))
        kind = type("Logged", (Logged,), {"name": name, "metric": metric})
        task: Task = kind()
        tasks.append(task)
        places = sorted(log.values(metric))
        known = _images(images[name]) if images and name in images else None
        if known is None:
            own_images.append(name)
        elif places[-1] >= len(known):
            raise ValueError(f"--images {name}: {len(known)} rows, but the log has doc_id {places[-1]}")
        drawn = tuple(known[place] if known else f"{name} {place}" for place in places)
        for run in runs:
            key = CellKey(VANILLA if run is baseline else run.name, 0, name)
            if name not in run.logs:
                cells[key] = Cell(key, {}, run.facts, None, "not run")
                continue
            _check(baseline, run, name, metric)
            outcome = _outcome(task, run.logs[name], metric, places, drawn)
            cells[key] = Cell(key, {}, run.facts, outcome)
            remarks += _apart(run, name, metric, outcome.score)
    for run in others:
        if extra := [name for name in run.logs if name not in baseline.logs]:
            remarks.append(f"Left out, the baseline did not run it: {listed(extra)} ({run.name}).")
    if own_images:
        remarks.append(
            f"Without --images every question counts as an image of its own ({', '.join(own_images)}): where "
            f"questions share images, intervals are too narrow."
        )
    comparison = assemble(
        tasks, [Group(cells, 0)], [0], reference=reference, difficulty=difficulty, margin=margin,
        remarks=remarks,
    )  # fmt: skip
    facts = {f"{run.name}: {key}": value for run in runs for key, value in run.facts.items()}
    heading = title or ", ".join(run.name for run in runs)
    return comparison, Origin(heading, facts, reference=reference, difficulty=difficulty, margin=margin)


def _rows(path: Path) -> dict[int, Mapping[str, Any]]:
    rows: dict[int, Mapping[str, Any]] = {}
    for number, row in enumerate(read_lines(path), 1):
        place = row.get("doc_id")
        if not isinstance(place, int) or place < 0:
            raise ValueError(f"{path}, line {number}: doc_id is {place!r}, but it must be a whole number")
        if place in rows:
            raise ValueError(f"{path}, line {number}: doc_id {place} is there twice")
        rows[place] = row
    if not rows:
        raise ValueError(f"{path}: there are no samples in it")
    return rows


def _facts(told: Mapping[str, Any]) -> dict[str, str]:
    config = told.get("config") or {}
    found = {
        "model": told.get("model_name") or told.get("model_source") or config.get("model"),
        "arguments": config.get("model_args"), "batch size": config.get("batch_size"),
        "lmms-eval": told.get("lmms_eval_version"), "transformers": told.get("transformers_version"),
        "git": told.get("git_hash"),
    }  # fmt: skip
    return {key: str(value) for key, value in found.items() if value not in (None, "")}


def _number(value: object) -> float | None:
    """A metric of a line: a number, or the `score` of an object."""
    if isinstance(value, dict):
        value = value.get("score")
    return float(value) if isinstance(value, bool | int | float) else None


def _metric(task: str, log: LoggedTask, asked: str | None) -> str:
    there = log.metrics()
    if asked is not None and asked not in there:
        raise ValueError(f"--metric {task}: {unknown('metric', asked, there)}")
    if not there:
        raise ValueError(
            f"{task}: no metric of its lines is a number or has a score; such tasks cannot be tabled"
        )
    metric = asked or there[0]
    values = log.values(metric).values()
    if metric in log.lower or min(values) < 0 or max(values) > 1:
        raise ValueError(
            f"{task}: {metric} is from {min(values):g} to {max(values):g}, but it must be from 0 to 1, and "
            f"more must be better: choose another with --metric {task}=NAME (there are {listed(there)})"
        )
    return metric


def _check(baseline: LoggedRun, run: LoggedRun, task: str, metric: str) -> None:
    """ValueError unless both answered the same questions."""
    ours, theirs = baseline.logs[task], run.logs[task]
    one, other = ours.values(metric), theirs.values(metric)
    words = f"{task}: {baseline.name} and {run.name} did not answer the same questions"
    if one.keys() != other.keys():
        raise ValueError(f"{words}: {len(one)} and {len(other)}, {len(one.keys() & other.keys())} in common")
    for place in one:
        for fact in ("doc_hash", "target"):
            mine, yours = ours.rows[place].get(fact), theirs.rows[place].get(fact)
            if mine is not None and yours is not None and mine != yours:
                raise ValueError(f"{words}: the {fact} of doc_id {place} differs")
    if min(other.values()) < 0 or max(other.values()) > 1:
        raise ValueError(f"{task}: {metric} of {run.name} is not always from 0 to 1")


def _outcome(
    task: Task, log: LoggedTask, metric: str, places: Sequence[int], images: tuple[str, ...]
) -> Outcome:
    values = log.values(metric)
    credit = tuple(values[place] for place in places)
    sums = np.stack([np.array(credit), np.ones(len(credit))], 1)
    nothing = ((),) * len(places)
    return Outcome(
        task=task.name, samples=tuple(map(str, places)),
        predictions=tuple(_said(log.rows[place]) for place in places), correct=credit, kept=nothing,
        path=nothing, credit=credit, sums=tuple(map(tuple, sums.tolist())), images=images,
        score=100 * fmean(credit), ledger=None, stages=(), draws=(100 * fmean(credit),),
        subscores={name: 100 * value for name, value in log.own.items() if 0 <= value <= 1},
    )  # fmt: skip


def _said(row: Mapping[str, Any]) -> str:
    said = row.get("filtered_resps")
    while isinstance(said, list) and said:
        said = said[0]
    return str(said)


def _apart(run: LoggedRun, task: str, metric: str, score: float) -> Iterator[str]:
    """The harness's own score of the metric where it is no mean over questions."""
    own = run.logs[task].own.get(metric)
    if own is not None and abs(own - score / 100) > APART / 100:
        yield (
            f"{task} of {run.name}: the mean of {metric} is {score:.2f} %, lmms-eval's own score {own:g}, "
            f"which it does not compute as a mean."
        )


def _images(place: Path) -> list[str]:
    """Digests of the images of lmms-lab's rows, in the order of the files: doc_id counts them."""
    files = sorted(place.glob("*.parquet")) if place.is_dir() else [place]
    found: list[str] = []
    try:
        for path in files:
            with pq.ParquetFile(path) as file:
                names = [name for name in file.schema_arrow.names if name.startswith("image")]
                if not names:
                    raise ValueError(f"{path}: there is no column of images")
                for group in range(file.num_row_groups):
                    for row in file.read_row_group(group, columns=names[:1])[names[0]].to_pylist():
                        content = row["bytes"] if isinstance(row, dict) else b""
                        found.append(hashlib.sha256(content).hexdigest()[:16])
    except (pa.ArrowException, OSError) as problem:
        raise ValueError(f"{place}: not whole Parquet files ({problem})") from problem
    if not found:
        raise ValueError(f"{place}: there are no Parquet files")
    return found
