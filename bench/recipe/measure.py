"""Timing steps: latency on a GPU or CPU, and the phone protocol."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from shutil import copyfile

from pydantic import NonNegativeFloat

from bench.edge import run as edge
from bench.edge import table as edge_table
from bench.edge.benchmark import EdgeOptions, SubjectOptions
from bench.edge.extras import optional
from bench.edge.parts import check_family
from bench.edge.runtimes.registry import RUNTIMES
from bench.evaluation.environment import environment
from bench.evaluation.protocol import Facts
from bench.latency import run as latency
from bench.latency.report import read_accuracy, table
from bench.recipe.paper import published
from bench.recipe.schema import Edge, Latency, Learning, Recipe
from bench.recipe.steps import RECORD, AnswerStep, Step, TrainStep, Workspace
from bench.report.outputs import put
from bench.report.tables import Table
from compress.documents import Document, Positive, read
from compress.models.loading import MLLM
from compress.progress import Progress
from evosearch.registry import find, names

FILES = {"latency": "results.json", "edge": "edge.json"}
TABLE = "table.json"
EVOCOMP = "evocomp"  # the method that the paper times


@dataclass(frozen=True, eq=False)
class TimingStep(Step):
    """A timing benchmark over the recipe's rows and budgets, with the compressors that the recipe trained.

    Rows are named by their specs, and so are the trainings in `trained`. `comparison` is the folder with the
    rows' scores, once it exists.
    """

    kind = "time"
    unit, counted = "benchmarks", "rounds"

    shop: Workspace
    title: str
    what: str  # latency or edge
    settings: Latency | Edge
    answers: AnswerStep
    trained: Mapping[str, TrainStep]
    comparison: Callable[[], Path]

    @property
    def model(self) -> str:
        return self.answers.name

    @property
    def code(self) -> tuple[object, ...]:
        how = edge.run if isinstance(self.settings, Edge) else latency.run
        return TimingStep, how, type(self.shop.load(self.model))

    @cached_property
    def facts(self) -> Facts:
        rows = [[one.row, one.key] for one in self.answers.candidates]
        return {
            "what": self.what, **asdict(self.settings), "rows": rows, "keeps": list(self.answers.keeps),
            "match": self.answers.match,
            "model": self.shop.fingerprint(self.model)[:16],
            "compressors": {spec: one.digest for spec, one in self.trained.items()},
            "device": self.shop.load(self.model).model.device.type, "anyres": self.shop.anyres,
        }  # fmt: skip

    @property
    def units(self) -> int:
        return 1

    @property
    def finished(self) -> int:
        return int((self.folder / RECORD).is_file())

    def work(self, report: Progress) -> None:
        timed = self._edge(report) if isinstance(self.settings, Edge) else self._latency(report)
        put(self.folder / TABLE, json.dumps(asdict(timed), indent=1) + "\n")

    def _latency(self, report: Progress) -> Table:
        assert isinstance(self.settings, Latency)
        mllm = self.shop.load(self.model)
        rows = ",".join(one.row for one in self.answers.candidates)
        conditions = latency.Conditions(
            methods=tuple(latency.rivals(rows, self.model, None)), keeps=tuple(self.answers.keeps),
            match=self.answers.match, steps=self.settings.steps, repetitions=self.settings.repetitions,
            model=self.model, compressors={spec: str(one.folder) for spec, one in self.trained.items()},
            clock=self.settings.clock,
        )  # fmt: skip
        scores = read_accuracy(self.comparison())
        inputs = latency.RequestOptions().inputs(mllm)
        return table(latency.run(mllm, conditions, inputs, self.folder, accuracy=scores, progress=report))

    def _edge(self, report: Progress) -> Table:
        assert isinstance(self.settings, Edge)
        told = self.settings
        options = EdgeOptions(self.answers.keeps, rounds=told.rounds, threads=told.threads, clock=told.clock)
        (trained,) = self.trained.values()
        subject = SubjectOptions(self.model, compressor=str(trained.folder), samples=told.samples)

        def stage(title: str, unit: str) -> AbstractContextManager[Progress]:
            return nullcontext(report)

        measured = edge.run(options, names(told.runtime, "edge.runtime", list(RUNTIMES)), subject.load, stage)
        edge_table.write(measured, environment(), self.folder)
        return replace(edge_table.table(measured), notes=())

    def pictures(self, folder: Path) -> list[Path]:
        """Copy the plots that the benchmark drew into a folder; return their paths."""
        drawn = sorted((self.folder / "pictures").glob("*.png"))
        if drawn:
            folder.mkdir(parents=True, exist_ok=True)
        return [Path(copyfile(one, folder / one.name)) for one in drawn]

    def speedups(self) -> Iterator[tuple[str, int, str, float, float | None]]:
        """Yield row, budget, stage, speed-up over the untouched model, and the paper's speed-up."""
        tokens = self.shop.load(self.model).visual_tokens
        path = self.folder / FILES[self.what]
        yield from (
            _latency(read(Latencies, path), tokens)
            if self.what == "latency"
            else _edge(read(Runtimes, path), tokens)
        )

    def table(self) -> Table:
        """Medians in the form that the timing commands print."""
        return read(Table, self.folder / TABLE)


class _Faster(Document):
    """Speed-up of a stage over the untouched model."""

    times: NonNegativeFloat


class _LatencyRowDocument(Document):
    """The fields that are read from a row of results.json."""

    method: str
    keep: Positive
    speedups: dict[str, _Faster | None]


class Latencies(Document):
    """The fields that are read from results.json."""

    rows: tuple[_LatencyRowDocument, ...]


class _EdgeRowDocument(Document):
    """The fields that are read from a row of edge.json."""

    keep: Positive
    speedup: NonNegativeFloat


class _RuntimeDocument(Document):
    """The fields that are read from a runtime in edge.json."""

    runtime: str
    rows: tuple[_EdgeRowDocument, ...]


class Runtimes(Document):
    """The fields that are read from edge.json."""

    runtimes: tuple[_RuntimeDocument, ...]


def _latency(told: Latencies, tokens: int) -> Iterator[tuple[str, int, str, float, float | None]]:
    paper = published()["figure4"]["speedup"]  # of EvoComp with 160 of 2,880 tokens
    for row in told.rows:
        for stage, key in (("prefill with selection", "prefill"), ("total", "total")):
            if faster := row.speedups.get(stage):
                known = row.method == EVOCOMP and round(row.keep * 2880 / tokens) == 160
                theirs = paper[key] if known else None
                yield row.method, row.keep, stage, faster.times, theirs


def _edge(told: Runtimes, tokens: int) -> Iterator[tuple[str, int, str, float, float | None]]:
    paper = {row["retained_visual_tokens"]: row["speedup"] for row in published()["table4"]["rows"]}
    for runtime in told.runtimes:
        for row in runtime.rows:
            theirs = paper.get(round(row.keep * 576 / tokens))
            yield runtime.runtime, row.keep, "total", row.speedup, theirs


def _check(recipe: Recipe, trains: Mapping[tuple[str, int], TrainStep]) -> None:
    """ValueError if rows need more than the method names and one compressor each, as timing accepts."""
    if not trains:
        raise ValueError(f"{recipe.name}: a timing needs a row that learns")
    if len(recipe.seeds) > 1:
        raise ValueError(f"{recipe.name}: a timing measures one compressor per row: give one seed")
    if recipe.edge and set(row for row, _ in trains) != {EVOCOMP}:
        raise ValueError(
            f"{recipe.name}: the phone protocol times the row {EVOCOMP} and no other row that learns"
        )
    if recipe.latency and recipe.match == "flops":
        raise ValueError("match=flops: a latency is timed at equal tokens; match: equivalent or tokens")
    for name, row in recipe.rows.items():
        if row.searched:
            continue  # no method, and not timed
        learns = row.learns or Learning()
        if name != (row.method or learns.selects) or row.positions or learns.depth or learns.source_gives:
            raise ValueError(
                f"rows.{name}: a timing finds a row by its name: use the method's name, such as evocomp or "
                f"fastv:layer=3, without depth, positions or source_gives"
            )


def _check_runtimes(edge: Edge, mllm: MLLM) -> None:
    check_family(mllm)
    for name in names(edge.runtime, "edge.runtime", list(RUNTIMES)):
        runtime = find(RUNTIMES, name, "runtime")
        for module in runtime.modules:
            optional(module, runtime.extra)


def timings(
    recipe: Recipe, shop: Workspace, answers: AnswerStep, trains: Mapping[tuple[str, int], TrainStep],
    comparison: Callable[[], Path],
) -> list[TimingStep]:  # fmt: skip
    """The timing steps of a recipe; ValueError if the recipe cannot be timed."""
    asked = {"latency": recipe.latency, "edge": recipe.edge}
    wanted = {name: settings for name, settings in asked.items() if settings}
    if wanted:
        _check(recipe, trains)
    if recipe.edge:
        _check_runtimes(recipe.edge, shop.load(recipe.model))
    trained = {row: step for (row, _), step in trains.items()}
    return [
        TimingStep(shop, f"time: {name}", name, settings, answers, trained, comparison)
        for name, settings in wanted.items()
    ]
