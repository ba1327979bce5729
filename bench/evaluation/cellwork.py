"""Cells of a comparison as jobs: workers answer parts of a cell, and the driver puts them together."""

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

PART = 256  # by default: workers end together, and a lost part costs little


class CellPart(NamedTuple):
    """Samples of a cell, in one draw of its method."""

    key: CellKey
    draw: int
    start: int
    stop: int


@dataclass(frozen=True)
class Entry:
    """One method of a comparison, and the name its rows carry; it may choose on another model, `source`."""

    name: str
    selector: Selector
    source: MLLM | None = None

    def acting(self, part: CellPart) -> Selector:
        """What chooses tokens in a part of a cell."""
        return self.selector.drawn(part.draw)


@dataclass(frozen=True)
class Refusal:
    """Why there are no answers; `failed` if another try might have them."""

    reason: str
    failed: bool = False

    @classmethod
    def after(cls, failure: Failure) -> Refusal:
        return cls(f"it failed {len(failure.reasons)} times: {failure.reasons[-1]}", failed=True)


@dataclass(frozen=True)
class CellSettings:
    """What a worker needs to know of a comparison, besides the model."""

    entries: Mapping[str, Entry]
    data: Mapping[str, tuple[Task, Sequence[Sample]]]
    batches: Batches
    match: Match
    positions: Positions | None
    part: int | None = None  # answers of a part, or some more

    def parts(self, key: CellKey) -> list[CellPart]:
        """A cell in parts whose batches are those of the whole, in the order of its answers."""
        size = self.batches.size
        step = -(-(self.part or PART) // size) * size
        count = len(self.data[key.task][1])
        return [
            CellPart(key, draw, start, min(start + step, count))
            for draw in range(self.entries[key.method].selector.draws)
            for start in range(0, count, step)
        ]


class CellWork:
    """From a part of a cell to its answers, or to the reason why there can be none."""

    def __init__(self, mllm: MLLM, settings: CellSettings, about: Facts):
        self.mllm, self.settings, self.about = mllm, settings, about
        self.forks = mllm.model.device.type == "cpu"
        self.machine = machine_of(mllm.model.device)
        self._spent: dict[CellKey, tuple[Keep, Match]] = {}

    @classmethod
    def made(
        cls, model: MLLM | Callable[..., MLLM], settings: CellSettings, about: Facts, **place: str
    ) -> CellWork:
        """With the model, about which all is known, or with the one that a function loads here."""
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
        """As `spend` solves it on the whole cell, once here for all of its parts.

        That a budget is in reach is known, unless it has to be measured.
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
    """A cell of which parts are under way."""

    parts: Sequence[CellPart]
    handed: int = 0
    closed: bool = False
    back: dict[CellPart, AnsweredPart | Refusal] = field(default_factory=dict)

    @property
    def refused(self) -> Refusal | None:
        """That of the first part which has one: the same wherever parts are answered."""
        return next((one for part in self.parts if isinstance(one := self.back.get(part), Refusal)), None)

    @property
    def complete(self) -> bool:
        """After a refusal no more parts are handed out."""
        return len(self.back) == (self.handed if self.refused is not None else len(self.parts))


def answered(
    crew: WorkerPool, todo: Sequence[CellKey], settings: CellSettings,
    heard: Callable[[CellPart], object] = lambda part: None,
) -> Generator[tuple[CellKey, list[AnsweredPart] | Refusal], None, None]:  # fmt: skip
    """Cells as they are finished: the answers in order, or why there are none; `heard` is told every part."""
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
