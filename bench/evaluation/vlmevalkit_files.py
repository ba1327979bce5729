"""Runs of VLMEvalKit, from the files that its `run.py` writes to outputs/MODEL.

    MODEL_DATASET_JUDGE_result.xlsx    multiple choice: a row per question, or per group of circular
                                       evaluation, with `hit`
    MODEL_DATASET_auxmatch.xlsx        yes or no: `score`
    MODEL_DATASET_results.xlsx         short answers: `eval_match`, a grade for each reference answer
    MODEL_DATASET_score.xlsx           choices about videos: `score`
    MODEL_DATASET_acc.csv, _score.csv  VLMEvalKit's own scores

Rows may also be .tsv or .json (PRED_FORMAT). Benchmarks without such a file have no grade per question.
"""

from __future__ import annotations

import ast
import csv
import hashlib
import re
from collections.abc import Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from bench.evaluation.graded import GradedQuestion, GradedRun, GradedTask, Place, Suite
from bench.tasks.folder import read_json, read_table
from bench.tasks.spreadsheet import read_workbook
from compress.documents import read_text
from evosearch.registry import cut, listed

GRADED = re.compile(
    r"(?P<base>.+?)_(?P<how>auxmatch|results|detailed_results|score|(?:exact_matching|[^_]+)_result)"
    r"\.(?:xlsx|tsv|json)"
)
PREDICTIONS = ".xlsx", ".tsv", ".json"
RUN = re.compile(r"T\d{8}.+")  # outputs/MODEL/T20260819-101112 contains one call of run.py
WANTED = "MODEL_DATASET_JUDGE_result, _auxmatch, _results or _score, as .xlsx, .tsv or .json"
SAME = "question", "answer"
IMAGE = "image_path", "video"
EDITS = "DocVQA", "InfoVQA"  # their eval_match values are distances
BEST = "ChartQA", "OCRVQA"  # one right reference answer is enough
WHOLE = None, "", "none", "Overall"  # values of `split` in a row for all questions
POINTER = 64  # characters; VLMEvalKit takes shorter texts for the index of another row


class VLMEvalKit(Suite):
    name: ClassVar[str] = "VLMEvalKit"
    files: ClassVar[str] = "TSV file"

    def read(self, name: str, path: Path) -> GradedRun:
        """Read the graded files in a folder MODEL, the newest for each benchmark, or one such file.

        ValueError if there is none, if a benchmark has several, and if a file cannot be read.
        """
        found: dict[str, dict[str, GradedTask]] = {}
        for folder in _places(path):
            here: dict[str, dict[str, GradedTask]] = {}
            for one in sorted(folder.iterdir()) if folder.is_dir() else [path]:
                match = GRADED.fullmatch(one.name)
                dataset = _dataset(one, match["base"]) if match else ""
                if match and dataset not in found and (task := _task(one, match["how"], dataset)):
                    here.setdefault(dataset, {})[one.name] = task
            found |= here
        if not found:
            raise ValueError(f"{path}: no graded questions here: {self.name} writes them to {WANTED}")
        tasks = {}
        for dataset, files in sorted(found.items()):
            if len(files) > 1:
                raise ValueError(f"{path}: {dataset} is graded in {listed(files)}: keep the one you mean")
            (tasks[dataset],) = files.values()
        ungraded = [one for one in _predicted(path) if one not in tasks]
        remarks = (
            f"left out, its files hold no grade of each question: {listed(ungraded)}.",
        ) if ungraded else ()  # fmt: skip
        return GradedRun(name, tasks, {"model": _model(path)}, remarks)

    def images(self, path: Path) -> Mapping[Place, str]:
        """Images of a benchmark's TSV file, given as base64 or as the index of the row with the image."""
        told = {_place(row["index"]): row.get("image") or "" for row in read_table(path, ("index", "image"))}
        found: dict[Place, str] = {}
        for place, image in told.items():
            shown = told.get(image, image) if len(image) <= POINTER else image
            found[place] = hashlib.sha256((shown or f"row {place}").encode()).hexdigest()[:16]
        return found


def _places(path: Path) -> list[Path]:
    """Folders to search, the newest first; VLMEvalKit links the newest files of all runs into MODEL."""
    if not path.is_dir():
        return [path]
    runs = [one for one in path.iterdir() if one.is_dir() and RUN.fullmatch(one.name)]
    return [path, *sorted(runs, key=lambda one: one.name, reverse=True)]


def _model(path: Path) -> str:
    folder = path if path.is_dir() else path.absolute().parent
    return (folder.absolute().parent if RUN.fullmatch(folder.name) else folder.absolute()).name


def _dataset(file: Path, base: str) -> str:
    model = _model(file)
    if not base.startswith(f"{model}_"):
        raise ValueError(
            f"{file}: VLMEvalKit names its files MODEL_DATASET, and puts them into a folder MODEL; this one "
            f"is in {model}: keep both names, and name the run with NAME=FOLDER"
        )
    return base.removeprefix(f"{model}_")


def _predicted(path: Path) -> list[str]:
    """The benchmarks with predictions, graded or not."""
    if not path.is_dir():
        return []
    files = [one for folder in _places(path) for one in folder.iterdir() if one.suffix in PREDICTIONS]
    prefix = f"{_model(path)}_"
    stems = sorted({one.stem.removeprefix(prefix) for one in files if one.stem.startswith(prefix)}, key=len)
    return [one for n, one in enumerate(stems) if not any(one.startswith(f"{base}_") for base in stems[:n])]


def _task(path: Path, how: str, dataset: str) -> GradedTask | None:
    """Read a graded file; None for a file that only contains summaries, or something else."""
    column = {"results": "eval_match", "detailed_results": "verifier_match"}.get(
        how, "hit" if how.endswith("_result") else "score"
    )
    rows, questions = _rows(path), dict[Place, GradedQuestion]()
    if not any({"index", column} <= row.keys() for row in rows):
        return None
    for number, row in enumerate(rows, 2):
        if row.get("index") in (None, ""):
            raise ValueError(f"{path}, row {number}: there is no index")
        place = _place(row["index"])
        if place in questions:
            raise ValueError(f"{path}, row {number}: the index {cut(place)} is there twice")
        metric, grade = _grade(row, column, dataset, f"{path}, row {number}")
        questions[place] = GradedQuestion(
            {metric: grade}, str(row.get("prediction")),
            {fact: str(row[fact]) for fact in SAME if row.get(fact) is not None},
            next((f"{dataset} {row[column]}" for column in IMAGE if row.get(column)), ""),
        )  # fmt: skip
    own = _own(path.with_name(path.stem.removesuffix(f"_{how}")))
    return GradedTask(questions, {} if own is None else {metric: own}, how=how)


def _rows(path: Path) -> Sequence[Mapping[str, Any]]:
    if path.suffix == ".xlsx":
        return read_workbook(path)
    if path.suffix == ".tsv":
        return read_table(path, ())
    rows = read_json(path)
    return [one for one in rows if isinstance(one, dict)] if isinstance(rows, list) else []


def _place(index: object) -> Place:
    """The index of a question as text; spreadsheets have no whole numbers."""
    return str(int(index)) if isinstance(index, float) and index.is_integer() else str(index)


def _grade(row: Mapping[str, Any], column: str, dataset: str, where: str) -> tuple[str, float]:
    """The metric's name, and a number from 0 to 1; ValueError if there is none."""
    told = row.get(column)
    if column == "eval_match":
        grades = _grades(told)
        if grades is None:
            raise ValueError(f"{where}: eval_match is {cut(repr(told))}, but it must be a list of numbers")
        return "eval_score", _of_references(grades, dataset)
    grade = {"true": 1.0, "false": 0.0}.get(str(told).lower(), _number(told))
    if grade is None:
        raise ValueError(f"{where}: {column} is {cut(repr(told))}, but it must be a number")
    if not 0 <= grade <= 1:
        raise ValueError(
            f"{where}: {column} is {grade:g}, but it must be from 0 to 1 (-1 marks an answer that VLMEvalKit "
            f"could not grade: grade it again)"
        )
    return column, grade


def _grades(told: object) -> list[float] | None:
    """Parse the list in a cell, which is written in Python's syntax."""
    if isinstance(told, str):
        told = re.sub(r"np\.\w+\(([^()]*)\)", r"\1", told)
    try:
        found = ast.literal_eval(told) if isinstance(told, str) else told
        return [float(one) for one in found] or None  # type: ignore[union-attr]  # None is a TypeError
    except (ValueError, SyntaxError, TypeError, OverflowError, MemoryError, RecursionError):
        return None


def _of_references(grades: Sequence[float], dataset: str) -> float:
    """Combine several grades as VLMEvalKit does; its column `eval_score` is always their mean."""
    if any(name in dataset for name in EDITS):
        likeness = 1 - min(grades)
        return likeness if likeness >= 0.5 else 0.0
    return max(grades) if any(name in dataset for name in BEST) else float(np.mean(grades))


def _own(base: Path) -> float | None:
    """`Overall` from the file with a benchmark's summary, if it has a row that is not for one split."""
    for suffix in ("_acc.csv", "_score.csv"):
        path = base.with_name(base.name + suffix)
        if path.is_file():
            for row in csv.DictReader(StringIO(read_text(path))):
                if row.get("split") in WHOLE and (told := _number(row.get("Overall"))) is not None:
                    return told
    return None


def _number(told: object) -> float | None:
    try:
        return float(told)  # type: ignore[arg-type]  # None is a TypeError
    except (TypeError, ValueError, OverflowError):
        return None
