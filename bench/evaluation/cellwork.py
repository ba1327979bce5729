"""Cells of a comparison as jobs: workers answer parts of a cell, and the driver joins them."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from bench.evaluation.batches import Batches
from bench.evaluation.cells import CellKey
from bench.evaluation.evaluate import AnsweredPart, answer, check_match_of_twins, spend
from bench.evaluation.protocol import Facts, of_model
from bench.tasks import Task
from compress.base import Positions, Selector
from compress.budget import Match
from compress.keep import Keep
from compress.models.loading import MLLM
from compress.parallel.engine import Failure, WorkerPool, machine_of
from compress.samples import Sample

PART = 256  # samples by default: workers end together, and a lost part costs little


class CellPart(NamedTuple):
    """A range of a cell's samples, in one draw of its method."""

    key: CellKey
    draw: int
    start: int
    stop: int


@dataclass(frozen=True)
class Entry:
    """One method of a comparison under its row name; it may select on another model, `source`."""

    name: str
    selector: Selector
    source: MLLM | None = None

    def acting(self, part: CellPart) -> Selector:
        """The selector for a part of a cell: the method in that part's draw."""
        return self.selector.drawn(part.draw)


@dataclass(frozen=True)
class Refusal:
    """The reason for missing answers; if `failed`, another try might succeed."""

    reason: str
    failed: bool = False

    @classmethod
    def after(cls, failure: Failure) -> Refusal:
        return cls(f"it failed {len(failure.reasons)} times: {failure.reasons[-1]}", failed=True)


@dataclass(frozen=True)
class CellSettings:
    """The settings of a comparison that a worker needs besides the model."""

    entries: Mapping[str, Entry]
    data: Mapping[str, tuple[Task, Sequence[Sample]]]
    batches: Batches
    match: Match
    positions: Positions | None
    part: int | None = None  # samples of a part, rounded up to whole batches

    def parts(self, key: CellKey) -> list[CellPart]:
        """Split a cell into parts, in the order of its answers; batches are the same as without splitting."""
        size = self.batches.size
        step = -(-(self.part or PART) // size) * size
        count = len(self.data[key.task][1])
        return [
            CellPart(key, draw, start, min(start + step, count))
            for draw in range(self.entries[key.method].selector.draws)
            for start in range(0, count, step)
        ]


class CellWork:
    """Answer a part of a cell, or return the reason for having no answers."""

    def __init__(self, mllm: MLLM, settings: CellSettings, about: Facts):
        self.mllm, self.settings, self.about = mllm, settings, about
        self.forks = mllm.model.device.type == "cpu"
        self.machine = machine_of(mllm.model.device)
        self._spent: dict[CellKey, tuple[Keep, Match]] = {}

    @classmethod
    def made(
        cls, model: MLLM | Callable[..., MLLM], settings: CellSettings, about: Facts, **place: str
    ) -> CellWork:
        """Build the work with a given model, whose facts are known, or with one that a function loads."""
        if isinstance(model, MLLM):
            return cls(model, settings, about)
        mllm = model(**place)
        return cls(mllm, settings, of_model(mllm))

    def __call__(self, part: CellPart) -> AnsweredPart | Refusal:
        settings, key = self.settings, part.key
        task, samples = settings.data[key.task]
        entry = settings.entries[key.method]
        started = time.perf_counter()
        try:
            if entry.source:
                check_match_of_twins(settings.match)
            keep, match = self._spend(key, samples)
            made = answer(
                self.mllm, task, samples[part.start : part.stop], entry.acting(part), keep,
                batches=settings.batches, match=match, positions=settings.positions, source=entry.source,
                before=part.draw * len(samples) + part.start,
            )  # fmt: skip
        except ValueError as problem:
            return Refusal(str(problem))
        return replace(made, seconds=time.perf_counter() - started)

    def _spend(self, key: CellKey, samples: Sequence[Sample]) -> tuple[Keep, Match]:
        """The budget that `spend` finds for the whole cell, computed once for all of its parts.

        The budget is known to be within reach, except for matched FLOPs, which have to be measured.
        """
        settings = self.settings
        if settings.match != "flops":
            return key.keep, settings.match
        if key not in self._spent:
            selector = settings.entries[key.method].selector
            self._spent = {
                key: spend(self.mllm, samples, selector, key.keep, settings.match, settings.batches)
            }
        return self._spent[key]


@dataclass
class _OpenCell:
    """A cell with parts in progress."""

    parts: Sequence[CellPart]
    handed: int = 0
    closed: bool = False
    back: dict[CellPart, AnsweredPart | Refusal] = field(default_factory=dict)

    @property
    def refused(self) -> Refusal | None:
        """The refusal of the first refused part: the same for any distribution of the parts over workers."""
        return next((one for part in self.parts if isinstance(one := self.back.get(part), Refusal)), None)

    @property
    def complete(self) -> bool:
        """True if all parts are back; after a refusal, if all parts that were handed out are."""
        return len(self.back) == (self.handed if self.refused is not None else len(self.parts))


def answered(
    crew: WorkerPool, todo: Sequence[CellKey], settings: CellSettings,
    heard: Callable[[CellPart], object] = lambda part: None,
) -> Generator[tuple[CellKey, list[AnsweredPart] | Refusal], None, None]:  # fmt: skip
    """Yield cells as they are finished, each with its answers in order or its refusal.

    `heard` is called with every finished part.
    """
    cells: dict[CellKey, _OpenCell] = {}

    def jobs() -> Iterator[CellPart]:
        for key in todo:
            cells[key] = cell = _OpenCell(settings.parts(key))
            for part in cell.parts:
                if cell.closed or cell.refused is not None:
                    break
                cell.handed += 1
                yield part

    with closing(crew.each(jobs())) as results:
        for part, outcome in results:
            heard(part)
            cell = cells[part.key]
            cell.back[part] = Refusal.after(outcome) if isinstance(outcome, Failure) else outcome
            if cell.complete:
                refused, back = cell.refused, cell.back
                cell.closed, cell.back = True, {}
                made: list[Any] = [back[one] for one in cell.parts if one in back]
                yield part.key, made if refused is None else refused
