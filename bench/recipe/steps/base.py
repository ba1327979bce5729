"""What all steps have in common."""

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
    """Where steps work and with what: `load` gives a model by name, always the same one.

    Workers of an `engine` elsewhere label, train and answer, and `loads` says how they load a model by name.
    All else is done here, by `here` processes.
    """

    folder: Path
    load: Callable[[str], MLLM]
    fingerprint: Callable[[str], str]
    workers: int = 1
    engine: Engine = field(default_factory=Local)
    loads: Callable[[str], Loader] | None = None
    batch: int | None = None  # None: by the device
    anyres: Anyres = "native"  # with which models are loaded
    features: Where = "memory"  # where embeddings stay while a compressor is trained
    shipped: bool = True  # whether labels that the package ships are taken instead of searching them again

    @property
    def here(self) -> int:
        return 1 if self.engine.elsewhere else self.workers

    def loader(self, model: str) -> Loader | None:
        """How workers elsewhere load a model; None if there are none."""
        return self.loads(model) if self.loads and self.engine.elsewhere else None

    def batches(self, model: str) -> Batches:
        return Batches.of(self.batch, self.load(model).model.device.type)


@dataclass(frozen=True)
class SamplePool:
    """Training samples: `take(n)` gives the first n, always the same; `facts` tell them from others.

    `shipped` says that the package may have labels of them.
    """

    facts: Facts
    take: Callable[[int], list[Sample]]
    shipped: bool = False


class Step(ABC):
    """A piece of work that is resumable inside and finished once."""

    kind: ClassVar[str]
    unit: ClassVar[str]
    counted: ClassVar[str]  # what `work` reports: units, or groups of them
    shop: Workspace
    title: str

    @property
    @abstractmethod
    def model(self) -> str:
        """The model that it runs."""

    @property
    @abstractmethod
    def code(self) -> tuple[object, ...]:
        """Classes, functions and modules that do the work (`compress.fingerprint`)."""

    @property
    @abstractmethod
    def facts(self) -> Facts:
        """All that its result depends on, ready for JSON."""

    @property
    @abstractmethod
    def units(self) -> int:
        """How much there is to do."""

    @property
    @abstractmethod
    def finished(self) -> int:
        """How much of it is done."""

    @property
    def forwards(self) -> float:
        """Forwards of the model in one unit: what times of steps with other settings are compared by."""
        return 1.0

    @property
    def workers(self) -> int:
        """How many processes share the work."""
        return 1

    @property
    def needs(self) -> Sequence[Step]:
        """Steps that must be done before it."""
        return ()

    @abstractmethod
    def work(self, report: Progress) -> float | None:
        """Do what is left; the seconds that all workers spent, or None where the clock says it."""

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
        """What earlier calls noted of their work, in order."""
        return Times.read(self.folder).work

    def do(self, bar: Bar) -> bool:
        """Finish the step and note what it took; False if there was nothing to do."""
        if self.done:
            if self.folder.is_dir() and not (self.folder / RECORD).is_file():  # it was killed just before
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
        """Record what is done, and what it took."""
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
    """What a finished step's step.json says; what it took is in times.json."""

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
