"""The steps of a recipe: label, train, answer. Each works in a folder named by all that its result hangs on.

    runs/steps/label-1a2b3c4d5e6f7081/step.json      what it was; times.json: how long it took

Name = digest of settings, models' weights, data, the steps before it, and the code that does it
(`compress.fingerprint`).
So a finished step is found again by whatever recipe needs it, and nothing stale ever is.
"""

from __future__ import annotations

import json
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

import pyarrow as pa

from baselines import METHODS, KeepAll
from bench.evaluation.batches import Batches
from bench.evaluation.cells import Cell, CellKey, read_cells
from bench.evaluation.cellwork import Refusal
from bench.evaluation.compare import Entry, fill, prepare
from bench.evaluation.comparison import VANILLA
from bench.evaluation.compressors import SHIPPED
from bench.evaluation.environment import environment
from bench.evaluation.evaluate import whole_of
from bench.evaluation.history import Times, WorkRecord, now, put_json
from bench.evaluation.opening import Loader
from bench.evaluation.protocol import Facts, apart_from_code, of_method, of_run, of_task
from bench.evaluation.validation import scored
from bench.tasks import Task
from compress.base import Positions, Selector
from compress.budget import Match
from compress.compressor.network import Compressor
from compress.documents import Document, read
from compress.files import digest_of
from compress.fingerprint import fingerprint
from compress.keep import NINTH, Keep
from compress.labels import Label, LabelConfig, Labeller, LabelStore, label, read_labels, sample_key
from compress.labels.campaign import usual_together
from compress.labels.labelling import code_of
from compress.labels.store import schema, write_shard
from compress.models.loading import MLLM, MODELS, Anyres
from compress.parallel.engine import Engine
from compress.parallel.local import Local
from compress.parallel.workers import each
from compress.progress import Bar, Progress
from compress.samples import Sample
from compress.training.config import FAMILY_PRESETS, paper_settings
from compress.training.features import Where
from compress.training.run import TrainConfig, train
from evosearch.registry import find, parse, pick

RECORD = "step.json"
PLACES: dict[Where, str] = {
    "memory": "in memory", "disk": "on disk in --out", "recompute": "computed whenever they are used",
}  # fmt: skip


TEXT = 24.0  # usual text tokens of a prompt


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


@dataclass(frozen=True, eq=False)
class LabelStep(Step):
    """Labels of the first `count` samples of a pool. More of them extend the same store.

    What the package ships of the same model and settings is not searched again: a label is an outcome of
    sample, model and settings alone.
    """

    kind = "label"
    unit = counted = "samples"

    shop: Workspace
    title: str
    name: str  # of the model
    config: LabelConfig
    pool: SamplePool
    count: int

    @property
    def model(self) -> str:
        return self.name

    @cached_property
    def resolved(self) -> LabelConfig:
        return self.config.resolved(self.shop.load(self.name))

    @property
    def code(self) -> tuple[object, ...]:
        return code_of(self.shop.load(self.name), self.config)

    @cached_property
    def facts(self) -> Facts:
        return {
            "model": self.shop.fingerprint(self.name)[:16],
            **asdict(self.resolved),
            "data": dict(self.pool.facts),
        }

    @cached_property
    def samples(self) -> list[Sample]:
        return self.pool.take(self.count)

    @property
    def units(self) -> int:
        return self.count

    @cached_property
    def settings(self) -> Facts:
        return Labeller(self.shop.load(self.name), self.config).about

    @cached_property
    def ready(self) -> LabelStore | None:
        """What the package ships of the same model and settings; a test searches some of them again."""
        if not (self.shop.shipped and self.pool.shipped):
            return None
        wanted = apart_from_code(self.settings)
        stores = map(read_labels, sorted((SHIPPED / self.name / "labels").glob("*")))
        return next((store for store in stores if apart_from_code(store.settings) == wanted), None)

    @cached_property
    def shipped(self) -> list[str]:
        """Keys of this step's samples whose labels the package ships."""
        if not self.ready:
            return []  # samples of a long file are not made for that
        ready = set(self.ready.ids.to_pylist())
        return [key for key in map(sample_key, self.samples) if key in ready]

    @property
    def finished(self) -> int:
        found = set(self.shipped)
        if any(self.folder.glob("*.parquet")):
            store = self.store()
            found |= set(map(sample_key, self.samples)) & {*store.ids.to_pylist(), *store.quarantine}
        return len(found)

    def do(self, bar: Bar) -> bool:
        here = set(self.store().ids.to_pylist()) if any(self.folder.glob("*.parquet")) else set()
        if self.ready and (missing := [key for key in self.shipped if key not in here]):
            self.folder.mkdir(parents=True, exist_ok=True)
            rows = [asdict(self.ready[key]) for key in missing]
            table = pa.Table.from_pylist(rows, schema(self.settings))
            write_shard(table, self.folder / f"shipped-{len(here):05d}.parquet")
        return super().do(bar)

    @property
    def forwards(self) -> float:
        searched = self.resolved.strategy or self.resolved.kind.startswith("group-attribution")
        return 2.0 + (self.resolved.evaluations if searched else 1)

    @property
    def workers(self) -> int:
        return self.shop.workers

    def work(self, report: Progress) -> None:
        shop = self.shop
        label(
            shop.loader(self.name) or shop.load(self.name), self.samples, self.folder, self.config,
            workers=self.workers, engine=shop.engine,
            together=usual_together(shop.load(self.name).model.device.type), progress=report,
        )  # fmt: skip

    def store(self) -> LabelStore:
        """The store, which may hold more than this step's samples."""
        return read_labels(self.folder)

    def labels(self) -> list[Label]:
        """The labels of this step's samples, in their order; none of those that were given up."""
        store = self.store()
        return [store[key] for key in map(sample_key, self.samples) if key in store]


@dataclass(frozen=True)
class Trained:
    """What a worker has trained: the files, if it has no access to the step's folder."""

    files: Mapping[str, bytes]
    seconds: float


@dataclass(frozen=True, eq=False)
class TrainJob:
    """All of a training but the model. Without a `folder` its files are the result, and it is not resumed."""

    title: str
    labels: Sequence[Label]
    samples: Sequence[Sample]
    config: TrainConfig
    exam: tuple[Task, Sequence[Sample]] | None
    keep: Keep
    features: Where
    cache: Path | None
    folder: Path | None

    def run(self, mllm: MLLM, report: Progress | None = None) -> Trained | Refusal:
        """Train, or say why that cannot be."""
        started = time.perf_counter()
        with ExitStack() as held:
            folder = self.folder or Path(held.enter_context(TemporaryDirectory()))
            try:
                train(
                    mllm, self.labels, self.samples, folder, self.config,
                    validate=scored(mllm, *self.exam, self.keep) if self.exam else None,
                    features=self.features, cache=self.cache,
                    progress=(lambda stage, done, total: report(done, total)) if report else None,
                )  # fmt: skip
            except ValueError as problem:
                return Refusal(str(problem))
            files = {} if self.folder else {path.name: path.read_bytes() for path in folder.glob("[!.]*")}
        return Trained(files, time.perf_counter() - started)


@dataclass(frozen=True, eq=False)
class TrainStep(Step):
    """A compressor from labels."""

    kind = "train"
    unit, counted = "samples x epochs", "steps"

    shop: Workspace
    title: str
    labels: LabelStep
    config: TrainConfig
    exam: tuple[Task, Sequence[Sample]] | None = None  # what chooses the epoch; None: held-out labels

    @property
    def model(self) -> str:
        return self.labels.name

    @property
    def code(self) -> tuple[object, ...]:
        return train, type(self.shop.load(self.model))

    @cached_property
    def facts(self) -> Facts:
        told = {**asdict(self.config), "labels": self.labels.digest, "samples": self.labels.count}
        return {**told, "exam": of_task(*self.exam)} if self.exam else told

    @property
    def keep(self) -> Keep:
        return self.labels.resolved.keep or NINTH

    @property
    def room(self) -> float:
        """Bytes of the samples' features, two of a number, prompts at their usual length."""
        mllm = self.shop.load(self.model)
        return 2.0 * self.labels.count * (mllm.visual_tokens + TEXT) * mllm.decoder.config.hidden_size

    @property
    def about(self) -> str:
        """With what it trains, in words."""
        one, mllm = self.config, self.shop.load(self.model)
        whose = "the miniature's settings"
        if mllm.name not in MODELS:
            theirs = replace(paper_settings(mllm.model.config.model_type), seed=one.seed)
            whose = f"the paper's for {FAMILY_PRESETS[mllm.model.config.model_type]}"
            if one != theirs:
                other = [name for name, value in asdict(one).items() if value != asdict(theirs)[name]]
                whose += f" but for {', '.join(other)}"
        chosen = "held-out labels"
        if self.exam:
            chosen = f"{len(self.exam[1])} samples of {self.exam[0].name} ({self.exam[0].protocol})"
        regions = f"{one.bins} regions" + (", divided by all" if one.normalise_by == "bins" else "")
        return (
            f"{one.epochs} epochs, batch {one.batch}, lr {one.lr:g}, {one.loss}, lambda {one.lambda_cos:g}, "
            f"{regions} ({whose}); labels of {self.keep}; the epoch is chosen on {chosen}; features "
            f"{PLACES[self.shop.features]}, about {self.room / 1e9:.1f} GB"
        )

    @property
    def units(self) -> int:
        return self.config.epochs * self.labels.count

    @property
    def finished(self) -> int:
        return self.units if (self.folder / RECORD).is_file() else 0

    @property
    def needs(self) -> Sequence[Step]:
        return (self.labels,)

    @property
    def job(self) -> TrainJob:
        """The training as a job for a worker of this machine, in the step's folder."""
        disk = self.shop.features == "disk"
        return TrainJob(
            self.title, self.labels.labels(), self.labels.samples, self.config, self.exam, self.keep,
            self.shop.features, self.shop.folder / "features" if disk else None, self.folder,
        )  # fmt: skip

    def work(self, report: Progress) -> None:
        done = each(partial(self.job.run, self.shop.load(self.model)), [report])  # with one thread
        for _, outcome in done:
            if isinstance(outcome, Refusal):
                raise ValueError(outcome.reason)

    def compressor(self) -> Compressor:
        return Compressor.from_pretrained(str(self.folder))


@dataclass(frozen=True, eq=False)
class Candidate:
    """One row under one seed: how to make its selector, and a key that changes whenever the method does."""

    row: str
    seed: int
    key: str
    make: Callable[[], Selector]
    source: str | None = None  # the model that chooses for it
    step: TrainStep | None = None  # that trains what it chooses with

    @property
    def name(self) -> str:
        """Under which its cells are kept, apart from all other versions of the row."""
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
        return ()  # it is among the facts

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
        """The part that needs no step which is not done yet, in the same folder."""
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
        return sum(outcome.seconds or 0.0 for outcome in made if outcome)  # of those that were read: none

    def cells(self) -> dict[tuple[str, int], dict[tuple[Keep, str], Cell]]:
        """By row and seed, the cells by budget and task; vanilla's under its own name and seed 0."""
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
    """The candidate that keeps what a trained compressor chooses."""
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
