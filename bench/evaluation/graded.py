"""Comparisons in our own form from questions that another suite has asked and graded.

A `Suite` reads the files that its runs leave behind. Any benchmark is supported whose questions have grades
from 0 to 1.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf, isnan
from pathlib import Path
from statistics import fmean
from typing import ClassVar

import numpy as np

from bench.evaluation.cells import Cell, CellKey
from bench.evaluation.comparison import VANILLA, Comparison, Group, assemble
from bench.evaluation.evaluate import Outcome
from bench.evaluation.origin import Origin
from bench.evaluation.stats import MARGIN
from bench.tasks.base import Task
from evosearch.registry import cut, listed, unknown

APART = 0.05  # points between our mean and the suite's own score above which a remark is made

Place = int | str  # a suite's identifier of a question


def number(value: int | float) -> float:
    """`value` as a float, infinite if no float is as large."""
    try:
        return float(value)
    except OverflowError:
        return inf if value > 0 else -inf


class Logged(Task):
    """A task of another suite; its score is the mean of a metric over the questions."""

    metric = ""


@dataclass(frozen=True)
class GradedQuestion:
    grades: Mapping[str, float]  # by metric, in the order of the log
    said: str
    same: Mapping[str, str] = field(default_factory=dict)  # equal in two runs that asked the same question
    image: str = ""  # equal for questions about one image or video; empty if unknown
    prompt: str = ""  # as given to the model; empty if unknown


@dataclass(frozen=True)
class GradedTask:
    """The answers of one run to one task; `own` are the suite's scores by metric, as shares or in percent."""

    questions: Mapping[Place, GradedQuestion]
    own: Mapping[str, float] = field(default_factory=dict)
    lower: frozenset[str] = frozenset()  # metrics for which less is better
    how: str = ""  # way of grading, if a suite has several

    def values(self, metric: str) -> dict[Place, float]:
        """The metric's value for each question that has it."""
        told = ((place, one.grades.get(metric)) for place, one in self.questions.items())
        return {place: value for place, value in told if value is not None}

    def metrics(self) -> list[str]:
        """The metrics, those of the most questions first, and otherwise in the log's order."""
        names = dict.fromkeys(name for one in self.questions.values() for name in one.grades)
        counts = {name: len(self.values(name)) for name in names}
        return sorted(names, key=lambda name: -counts[name])


@dataclass(frozen=True)
class GradedRun:
    """All tasks of one run, the known facts about the model, and remarks for the reader."""

    name: str
    tasks: Mapping[str, GradedTask]
    facts: Mapping[str, str] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()


class Suite(ABC):
    """A reader for the runs of one suite."""

    name: ClassVar[str]
    files: ClassVar[str]  # kind of file for --images

    @abstractmethod
    def read(self, name: str, path: Path) -> GradedRun:
        """Read the run in a folder or file; ValueError if there is none or if it cannot be read."""

    @abstractmethod
    def images(self, path: Path) -> Mapping[Place, str]:
        """Map questions to names that are equal for equal images; ValueError if the path is no data set."""


def compare_runs(
    suite: Suite,
    paths: Mapping[str, Path],
    *,
    images: Mapping[str, Path] | None = None,
    metrics: Mapping[str, str] | None = None,
    reference: str | None = None,
    difficulty: str | None = None,
    margin: float = MARGIN,
    title: str = "",
    mixed: bool = False,
) -> tuple[Comparison, Origin]:
    """Compare runs by name; the first is the baseline, which the table calls `none`.

    `images` name, by task, files of its data set, so that the intervals resample questions about equal images
    together. `metrics` choose a metric by task (default: the one that the most questions have). `mixed`
    admits runs with other prompts, with a remark.
    ValueError for runs without a task in common, for runs that did not answer the same questions or were not
    graded in the same way, and for metrics that are not between 0 and 1 or for which less is better.
    """
    runs = [suite.read(name, path) for name, path in paths.items()]
    baseline, *others = runs
    if not others:
        raise ValueError("one run alone cannot be compared: give the baseline and another one")
    for option, asked in (("--images", images or {}), ("--metric", metrics or {})):
        for named in asked:
            if named not in baseline.tasks:
                raise ValueError(f"{option}: {unknown('task of these logs', named, baseline.tasks)}")
    for option, chosen in (("--reference", reference), ("--difficulty", difficulty)):
        if chosen is not None and chosen not in [run.name for run in others]:
            raise ValueError(f"{option}: {unknown('run', chosen, [run.name for run in others])}")
    for run in others:
        if not run.tasks.keys() & baseline.tasks.keys():
            raise ValueError(
                f"{run.name} and {baseline.name} have no task in common: {listed(run.tasks)} and "
                f"{listed(baseline.tasks)}"
            )
    tasks: list[Task] = []
    cells: dict[CellKey, Cell] = {}
    remarks = [f"From logs of {suite.name}. {VANILLA} is the run {baseline.name}."]
    remarks += [f"{run.name}: {line}" for run in runs for line in run.remarks]
    alone: list[str] = []
    for name, log in baseline.tasks.items():
        metric = _metric(name, log, (metrics or {}).get(name))
        kind = type("Logged", (Logged,), {"name": name, "metric": metric})
        task: Task = kind()
        tasks.append(task)
        places = sorted(log.values(metric))
        known = suite.images(images[name]) if images and name in images else {}
        if known and (lacking := [place for place in places if place not in known]):
            raise ValueError(
                f"--images {name}: it has {len(known)} rows, but none for question {lacking[0]} of the log"
            )
        drawn = tuple(known.get(place) or log.questions[place].image or f"{name} {place}" for place in places)
        if not known and not any(log.questions[place].image for place in places):
            alone.append(name)
        for run in runs:
            key = CellKey(VANILLA if run is baseline else run.name, 0, name)
            if name not in run.tasks:
                cells[key] = Cell(key, {}, run.facts, None, "not run")
                continue
            _check(baseline, run, name, metric)
            remarks += _prompts(baseline, run, name, places, mixed)
            outcome = _outcome(task, run.tasks[name], metric, places, drawn)
            cells[key] = Cell(key, {}, run.facts, outcome)
            remarks += _apart(suite, run, name, metric, outcome.score)
    for run in others:
        if extra := [name for name in run.tasks if name not in baseline.tasks]:
            remarks.append(f"Left out, the baseline did not run it: {listed(extra)} ({run.name}).")
    if alone:
        remarks.append(
            f"Without --images every question counts as an image of its own ({', '.join(alone)}): where "
            f"questions share images, intervals are too narrow."
        )
    comparison = assemble(
        tasks, [Group(cells, 0)], [0], reference=reference, difficulty=difficulty, margin=margin,
        remarks=remarks,
    )  # fmt: skip
    facts = {f"{run.name}: {key}": value for run in runs for key, value in run.facts.items()}
    heading = title or ", ".join(run.name for run in runs)
    return comparison, Origin(heading, facts, reference=reference, difficulty=difficulty, margin=margin)


def _metric(task: str, log: GradedTask, asked: str | None) -> str:
    there = log.metrics()
    if asked is not None and asked not in there:
        raise ValueError(f"--metric {task}: {unknown('metric', asked, there)}")
    if not there:
        raise ValueError(
            f"{task}: no metric of its questions is a number or has a score; such tasks cannot be tabled"
        )
    metric = asked or there[0]
    told = log.values(metric)
    if bad := [place for place, value in told.items() if isnan(value)]:
        raise ValueError(f"{task}: {metric} of question {bad[0]} is not a number: grade it again")
    values = told.values()
    if metric in log.lower or min(values) < 0 or max(values) > 1:
        raise ValueError(
            f"{task}: {metric} is from {min(values):g} to {max(values):g}, but it must be from 0 to 1, and "
            f"more must be better: choose another with --metric {task}=NAME (there are {listed(there)})"
        )
    return metric


def _check(baseline: GradedRun, run: GradedRun, task: str, metric: str) -> None:
    """ValueError unless both runs answered the same questions and were graded in the same way."""
    ours, theirs = baseline.tasks[task], run.tasks[task]
    if ours.how != theirs.how:
        raise ValueError(
            f"{task}: {baseline.name} was graded by {ours.how}, and {run.name} by {theirs.how}: grade both "
            f"in the same way"
        )
    one, other = ours.values(metric), theirs.values(metric)
    words = f"{task}: {baseline.name} and {run.name} did not answer the same questions"
    if one.keys() != other.keys():
        raise ValueError(f"{words}: {len(one)} and {len(other)}, {len(one.keys() & other.keys())} in common")
    for place in one:
        mine, yours = ours.questions[place].same, theirs.questions[place].same
        for fact in mine.keys() & yours.keys():
            if mine[fact] != yours[fact]:
                raise ValueError(f"{words}: the {fact} of question {place} differs")
    if not all(0 <= value <= 1 for value in other.values()):
        raise ValueError(f"{task}: {metric} of {run.name} is not always from 0 to 1")


def _prompts(
    baseline: GradedRun, run: GradedRun, task: str, places: Sequence[Place], mixed: bool
) -> Iterator[str]:
    """Yield a remark if the prompts differ; ValueError in that case unless `mixed`."""
    ours, theirs = baseline.tasks[task].questions, run.tasks[task].questions
    asked = [(place, ours[place].prompt, theirs[place].prompt) for place in places]
    others = [(place, one, other) for place, one, other in asked if one and other and one != other]
    if not others:
        return
    place, one, other = others[0]
    if not mixed:
        raise ValueError(
            f"{task}: {baseline.name} and {run.name} were asked in other words (question {place}: "
            f"{cut(one)!r} and {cut(other)!r}): if you want to compare them nevertheless, add --mixed"
        )
    yield f"{task}: {run.name} was asked {len(others)} questions in other words than {baseline.name}."


def _outcome(
    task: Task, log: GradedTask, metric: str, places: Sequence[Place], images: tuple[str, ...]
) -> Outcome:
    values = log.values(metric)
    credit = tuple(values[place] for place in places)
    sums = np.stack([np.array(credit), np.ones(len(credit))], 1)
    nothing = ((),) * len(places)
    return Outcome(
        task=task.name, samples=tuple(map(str, places)),
        predictions=tuple(log.questions[place].said for place in places), correct=credit, kept=nothing,
        path=nothing, credit=credit, sums=tuple(map(tuple, sums.tolist())), images=images,
        score=100 * fmean(credit), ledger=None, stages=(), draws=(100 * fmean(credit),),
        subscores={name: 100 * value for name, value in log.own.items() if 0 <= value <= 1},
    )  # fmt: skip


def _apart(suite: Suite, run: GradedRun, task: str, metric: str, score: float) -> Iterator[str]:
    """Yield a remark if the suite's own score (a share or percent) is not the mean over questions."""
    own = run.tasks[task].own.get(metric)
    if own is not None and min(abs(own - score), abs(100 * own - score)) > APART:
        yield (
            f"{task} of {run.name}: the mean of {metric} is {score:.2f} %, {suite.name}'s own score {own:g}, "
            f"which it does not compute as a mean."
        )
