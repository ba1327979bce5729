"""Answers of all rows of a table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from baselines import METHODS, KeepAll
from bench.evaluation.cells import Cell, CellKey, read_cells
from bench.evaluation.compare import Entry, fill, prepare
from bench.evaluation.comparison import VANILLA
from bench.evaluation.evaluate import whole_of
from bench.evaluation.protocol import Facts, of_method, of_run, of_task
from bench.recipe.steps.base import Step, Workspace, key_of
from bench.recipe.steps.training import TrainStep
from bench.tasks import Task
from compress.base import Positions, Selector
from compress.budget import Match
from compress.fingerprint import fingerprint
from compress.keep import Keep
from compress.progress import Progress
from compress.samples import Sample
from evosearch.registry import find, parse, pick


@dataclass(frozen=True, eq=False)
class Candidate:
    """One row under one seed: a function that makes its selector, and a key that changes with the method."""

    row: str
    seed: int
    key: str
    make: Callable[[], Selector]
    source: str | None = None  # the model that selects its tokens
    step: TrainStep | None = None  # trains its compressor

    @property
    def name(self) -> str:
        """Name of the row's cells, distinct from those of all other versions of the row."""
        return f"{self.row} {self.key}"


@dataclass(frozen=True, eq=False)
class AnswerStep(Step):
    """Every candidate at every budget on every task; all recipes over the same questions share the cells."""

    kind = "answer"
    unit, counted = "answers", "cells"

    shop: Workspace
    title: str
    name: str
    candidates: Sequence[Candidate]
    keeps: Sequence[Keep]
    data: Mapping[Task, Sequence[Sample]]
    match: Match

    @property
    def model(self) -> str:
        return self.name

    @property
    def code(self) -> tuple[object, ...]:
        return ()  # the facts include it

    @cached_property
    def facts(self) -> Facts:
        mllm = self.shop.load(self.name)
        told = of_run(mllm, batch=self.shop.batches(self.name).size, match=self.match, positions=None)
        for task, samples in self.data.items():
            told |= of_task(task, samples)
        return {**told, "vanilla": of_method(KeepAll())}

    @cached_property
    def grid(self) -> list[CellKey]:
        whole = whole_of(self.shop.load(self.name), self.data)
        return [
            *(CellKey(VANILLA, whole, task.name) for task in self.data),
            *(CellKey(one.name, keep, task.name)
              for keep in self.keeps for one in self.candidates for task in self.data),
        ]  # fmt: skip

    @cached_property
    def sizes(self) -> dict[str, int]:
        return {task.name: len(samples) for task, samples in self.data.items()}

    @property
    def units(self) -> int:
        return sum(self.sizes[key.task] for key in self.grid)

    @property
    def finished(self) -> int:
        there = {cell.key for cell in read_cells(self.folder) if cell.outcome or not cell.failed}
        return sum(self.sizes[key.task] for key in self.grid if key in there)

    @property
    def workers(self) -> int:
        return self.shop.workers

    @property
    def needs(self) -> Sequence[Step]:
        return [one.step for one in self.candidates if one.step]

    @property
    def early(self) -> AnswerStep:
        """The part of the step that needs no unfinished step, in the same folder."""
        ready = [one for one in self.candidates if one.step is None or one.step.done]
        return replace(self, title=f"{self.title}: what needs no training", candidates=ready)

    def work(self, report: Progress) -> float:
        mllm, shop = self.shop.load(self.name), self.shop
        entries = [
            Entry(one.name, one.make(), shop.load(one.source) if one.source else None)
            for one in self.candidates
        ]
        loads = shop.loader(self.name)
        prepared = prepare(
            mllm, entries or [Entry("untouched", KeepAll())], self.keeps, self.data,
            batch=shop.batches(self.name), match=self.match, engine=shop.engine, loads=loads,
            folder=self.folder,
        )  # fmt: skip
        fill(mllm, prepared, workers=self.workers, engine=shop.engine, loads=loads, progress=report)
        made = (cell.outcome for cell in prepared.cells.found.values())
        return sum(outcome.seconds or 0.0 for outcome in made if outcome)  # cells that were read: 0

    def cells(self) -> dict[tuple[str, int], dict[tuple[Keep, str], Cell]]:
        """By row and seed, the cells by budget and task; vanilla has its own name and seed 0."""
        places = {VANILLA: (VANILLA, 0)} | {one.name: (one.row, one.seed) for one in self.candidates}
        wanted = set(self.grid)
        found: dict[tuple[str, int], dict[tuple[Keep, str], Cell]] = {}
        for cell in read_cells(self.folder):
            if cell.key in wanted:
                place = places[cell.key.method]
                found.setdefault(place, {})[cell.key.keep, cell.key.task] = cell
        return found


def trained(
    step: TrainStep, row: str, selects: str, depth: int, positions: Positions | None, source: str | None
) -> Candidate:
    """The candidate whose kept tokens a trained compressor selects."""
    method = fingerprint(find(METHODS, parse(selects)[0], "method"))
    key = key_of(step.digest, selects, depth, positions, source, method)

    def make() -> Selector:
        made = pick(METHODS, selects, "method", compressor=step.compressor(), depth=depth)
        if positions:
            made.positions = positions
        return made

    return Candidate(row, step.config.seed, key, make, source, step)


def named(selector: Selector, row: str, positions: Positions | None) -> Candidate:
    """The candidate of a method that learns nothing for the recipe."""
    if positions:
        selector.positions = positions
    return Candidate(row, 0, key_of(of_method(selector)), lambda: selector)
