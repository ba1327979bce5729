"""The base class of all steps, and their workspace."""

from __future__ import annotations

import json
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from bench.evaluation.batches import Batches
from bench.evaluation.environment import environment
from bench.evaluation.history import Times, WorkRecord, now, put_json
from bench.evaluation.opening import Loader
from bench.evaluation.protocol import Facts
from compress.documents import Document, read
from compress.files import digest_of
from compress.fingerprint import fingerprint
from compress.models.loading import MLLM, Anyres
from compress.parallel.engine import Engine
from compress.parallel.local import Local
from compress.progress import Bar, Progress
from compress.samples import Sample
from compress.training.features import Where

RECORD = "step.json"


@dataclass(frozen=True)
class Workspace:
    """Folder and resources of the steps; `load` gives a model by name, always the same object.

    If the workers of `engine` are elsewhere, they label, train and answer, and `loads` makes their loader of
    a model by name. All other work is done here, by `here` processes.
    """

    folder: Path
    load: Callable[[str], MLLM]
    fingerprint: Callable[[str], str]
    workers: int = 1
    engine: Engine = field(default_factory=Local)
    loads: Callable[[str], Loader] | None = None
    batch: int | None = None  # None: by the device
    anyres: Anyres = "native"  # setting for loading models
    features: Where = "memory"  # where embeddings are kept during training
    shipped: bool = True  # whether to use labels that the package ships instead of searching them again

    @property
    def here(self) -> int:
        return 1 if self.engine.elsewhere else self.workers

    def loader(self, model: str) -> Loader | None:
        """The loader of a model for workers elsewhere; None if there are none."""
        return self.loads(model) if self.loads and self.engine.elsewhere else None

    def batches(self, model: str) -> Batches:
        return Batches.of(self.batch, self.load(model).model.device.type)


@dataclass(frozen=True)
class SamplePool:
    """Training samples: `take(n)` gives the first n, always the same; `facts` identify the pool.

    `shipped` is true if the package may ship labels of the samples.
    """

    facts: Facts
    take: Callable[[int], list[Sample]]
    shipped: bool = False


class Step(ABC):
    """A piece of work that can be resumed, and that is finished once."""

    kind: ClassVar[str]
    unit: ClassVar[str]
    counted: ClassVar[str]  # what `work` reports: units or groups of units
    shop: Workspace
    title: str

    @property
    @abstractmethod
    def model(self) -> str:
        """The name of the model that the step runs."""

    @property
    @abstractmethod
    def code(self) -> tuple[object, ...]:
        """Classes, functions and modules that do the work (`compress.fingerprint`)."""

    @property
    @abstractmethod
    def facts(self) -> Facts:
        """Everything the result depends on, ready for JSON."""

    @property
    @abstractmethod
    def units(self) -> int:
        """The amount of work, in units."""

    @property
    @abstractmethod
    def finished(self) -> int:
        """The number of finished units."""

    @property
    def forwards(self) -> float:
        """Forwards of the model per unit, which make times of steps with other settings comparable."""
        return 1.0

    @property
    def workers(self) -> int:
        """The number of processes that share the work."""
        return 1

    @property
    def needs(self) -> Sequence[Step]:
        """Steps that must be done before this one."""
        return ()

    @abstractmethod
    def work(self, report: Progress) -> float | None:
        """Do the remaining work; return the seconds of all workers, or None to use the measured wall time."""

    @cached_property
    def digest(self) -> str:
        return key_of(self.kind, self.facts, fingerprint(*self.code))

    @property
    def folder(self) -> Path:
        return self.shop.folder / "steps" / f"{self.kind}-{self.digest}"

    @property
    def done(self) -> bool:
        return self.finished >= self.units

    @property
    def work_done(self) -> Sequence[WorkRecord]:
        """The records of earlier calls, in order."""
        return Times.read(self.folder).work

    def do(self, bar: Bar) -> bool:
        """Finish the step and record its time; False if there was nothing to do."""
        if self.done:
            if self.folder.is_dir() and not (self.folder / RECORD).is_file():  # killed before the record
                self._tell()
            return False
        self.folder.mkdir(parents=True, exist_ok=True)
        before, started = self.finished, time.perf_counter()
        with bar(self.title, self.counted) as report:
            spent = self.work(report)
        passed = time.perf_counter() - started
        self.note(self.units - before, passed if spent is None else spent / self.workers, self.workers)
        return True

    def note(self, units: int, seconds: float, workers: int) -> None:
        """Record finished work and its time."""
        spent = WorkRecord(
            units=units,
            forwards=units * self.forwards,
            seconds=seconds,
            workers=workers,
            model=self.shop.fingerprint(self.model)[:16],
            device=self.shop.load(self.model).model.device.type,
            date=now(),
            environment=environment(),
        )
        times = Times.read(self.folder)
        replace(times, work=[*times.work, spent]).save(self.folder)
        self._tell()

    def _tell(self) -> None:
        put_json(self.folder / RECORD, {"kind": self.kind, "title": self.title, "facts": dict(self.facts)})


class StepRecord(Document):
    """The content of a finished step's step.json; its times are in times.json."""

    kind: str
    title: str
    facts: dict[str, Any]


def read_record(path: Path) -> StepRecord:
    """The record of a step; ValueError for another file."""
    try:
        return read(StepRecord, path)
    except ValueError as problem:
        raise ValueError(f"{problem}; delete {path.parent} to do the step again") from problem


def key_of(*parts: object) -> str:
    """The digest of plain values: settings, names, other digests."""
    return digest_of([json.dumps(parts, sort_keys=True, default=str)])
