"""Steps that time: latency on a GPU or CPU, and the phone protocol. The commands themselves do the work."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib import import_module
from itertools import dropwhile, takewhile
from pathlib import Path
from shutil import copyfile
from sys import stderr

from pydantic import NonNegativeFloat

from bench.evaluation.protocol import Facts
from bench.recipe.paper import published
from bench.recipe.schema import Edge, Latency, Learning, Recipe
from bench.recipe.steps import RECORD, Answer, Cost, Report, Shop, Step, Train
from compress.documents import Document, Positive, read
from compress.models.loading import MLLM
from evosearch.registry import find, names

FILES = {"latency": "results.json", "edge": "edge.json"}


@dataclass(frozen=True, eq=False)
class Timing(Step):
    """A timing benchmark over the recipe's rows and budgets, with the compressor that the recipe trained.

    Rows are named by their specs. `comparison` is the folder with the rows' scores once there is one.
    """

    kind = "time"
    unit = counted = "benchmarks"

    shop: Shop
    title: str
    what: str  # latency or edge
    settings: Latency | Edge
    answers: Answer
    trained: Train
    comparison: Callable[[], Path]

    @property
    def model(self) -> str:
        return self.answers.name

    @property
    def code(self) -> tuple[object, ...]:
        """Its command as a whole, whose defaults decide as well."""
        command = import_module(f"bench.commands.{self.what}")
        return Timing, command, type(self.shop.load(self.model))

    @cached_property
    def facts(self) -> Facts:
        rows = [[one.row, one.key] for one in self.answers.candidates]
        return {
            "what": self.what, **asdict(self.settings), "rows": rows, "keeps": list(self.answers.keeps),
            "match": self.answers.match,
            "model": self.shop.fingerprint(self.model)[:16], "compressor": self.trained.digest,
            "device": self.shop.load(self.model).model.device.type, "anyres": self.shop.anyres,
        }  # fmt: skip

    @property
    def units(self) -> int:
        return 1

    @property
    def finished(self) -> int:
        return int((self.folder / RECORD).is_file())

    @property
    def cost(self) -> Cost:
        return Cost(1, 0)

    @property
    def arguments(self) -> list[str]:
        """Of the command."""
        told = {
            "model": self.model, "keep": ",".join(map(str, self.answers.keeps)),
            "compressor": self.trained.folder, "clock": self.settings.clock, "out": self.folder,
        }  # fmt: skip
        if isinstance(self.settings, Edge):
            told |= {"runtimes": self.settings.runtime, "rounds": self.settings.rounds,
                     "samples": self.settings.samples, "threads": self.settings.threads}  # fmt: skip
        else:
            mllm = self.shop.load(self.model)
            told |= {
                "anyres": self.shop.anyres, "match": self.answers.match,
                "methods": ",".join(one.row for one in self.answers.candidates),
                "repetitions": self.settings.repetitions, "new": self.settings.steps,
                "accuracy": self.comparison(), "device": mllm.model.device.type,
                "dtype": str(mllm.model.dtype).removeprefix("torch."),
            }  # fmt: skip
        return [
            "bench",
            self.what,
            *(part for key, value in told.items() for part in (f"--{key}", str(value))),
        ]

    def work(self, report: Report) -> None:
        from bench.cli import main  # not at the top: it is above this package

        with redirect_stdout(stderr):
            main(self.arguments, standalone_mode=False)
        report(1, 1)

    def pictures(self, folder: Path) -> list[Path]:
        """The plots that the command drew, copied into a folder."""
        drawn = sorted((self.folder / "pictures").glob("*.png"))
        if drawn:
            folder.mkdir(parents=True, exist_ok=True)
        return [Path(copyfile(one, folder / one.name)) for one in drawn]

    def speedups(self) -> Iterator[tuple[str, int, str, float, float | None]]:
        """Row, budget, stage, how many times faster than the untouched model, and the paper's figure."""
        tokens = self.shop.load(self.model).visual_tokens
        path = self.folder / FILES[self.what]
        yield from (
            _latency(read(Latencies, path), tokens)
            if self.what == "latency"
            else _edge(read(Runtimes, path), tokens)
        )

    def table(self) -> list[str]:
        """What the command printed of its times: the lines of its first table in Markdown."""
        lines = (self.folder / f"{self.what}.md").read_text().splitlines()
        rest = dropwhile(lambda line: not line.startswith("|"), lines)
        return list(takewhile(lambda line: line.startswith("|"), rest))


class _Faster(Document):
    """A stage beside the untouched model's."""

    times: NonNegativeFloat


class _Timed(Document):
    """What is read of a row of results.json."""

    method: str
    keep: Positive
    speedups: dict[str, _Faster | None]


class Latencies(Document):
    """What is read of results.json."""

    rows: tuple[_Timed, ...]


class _Chain(Document):
    """What is read of a row of edge.json."""

    keep: Positive
    speedup: NonNegativeFloat


class _Runtime(Document):
    """What is read of a runtime in edge.json."""

    runtime: str
    rows: tuple[_Chain, ...]


class Runtimes(Document):
    """What is read of edge.json."""

    runtimes: tuple[_Runtime, ...]


def _latency(told: Latencies, tokens: int) -> Iterator[tuple[str, int, str, float, float | None]]:
    paper = published()["figure4"]["speedup"]  # of EvoComp with 160 of 2,880 tokens
    for row in told.rows:
        for stage, key in (("prefill with selection", "prefill"), ("total", "total")):
            if faster := row.speedups.get(stage):
                known = row.method == "evocomp" and round(row.keep * 2880 / tokens) == 160
                theirs = paper[key] if known else None
                yield row.method, row.keep, stage, faster.times, theirs


def _edge(told: Runtimes, tokens: int) -> Iterator[tuple[str, int, str, float, float | None]]:
    paper = {row["retained_visual_tokens"]: row["speedup"] for row in published()["table4"]["rows"]}
    for runtime in told.runtimes:
        for row in runtime.rows:
            theirs = paper.get(round(row.keep * 576 / tokens))
            yield runtime.runtime, row.keep, "total", row.speedup, theirs


def _check(recipe: Recipe, trains: Mapping[tuple[str, int], Train]) -> None:
    """The commands that time are given methods by name and one compressor: rows must not say more."""
    if not trains:
        raise ValueError(f"{recipe.name}: a timing needs a row that learns")
    if (made := len({one.digest for one in trains.values()})) > 1:
        raise ValueError(f"{recipe.name}: a timing is of one compressor; rows and seeds train {made}")
    if recipe.latency and recipe.match == "flops":
        raise ValueError("match=flops: a latency is timed at equal tokens; match: equivalent or tokens")
    for name, row in recipe.rows.items():
        if row.searched:
            continue  # no method, and not timed
        learns = row.learns or Learning()
        if name != (row.method or learns.selects) or row.positions or learns.depth or learns.source_gives:
            raise ValueError(
                f"rows.{name}: a timing finds a row by its name: let that be the method's, as evocomp or "
                f"fastv:layer=3, without depth, positions or source_gives"
            )


def _check_runtimes(edge: Edge, mllm: MLLM) -> None:
    from bench.edge.extras import optional
    from bench.edge.parts import check_family
    from bench.edge.runtimes.registry import RUNTIMES

    check_family(mllm)
    for name in names(edge.runtime, "edge.runtime", list(RUNTIMES)):
        runtime = find(RUNTIMES, name, "runtime")
        for module in runtime.modules:
            optional(module, runtime.extra)


def timings(
    recipe: Recipe, shop: Shop, answers: Answer, trains: Mapping[tuple[str, int], Train],
    comparison: Callable[[], Path],
) -> list[Timing]:  # fmt: skip
    """The timing steps of a recipe; ValueError for what a timing cannot be of."""
    asked = {"latency": recipe.latency, "edge": recipe.edge}
    wanted = {name: settings for name, settings in asked.items() if settings}
    if wanted:
        _check(recipe, trains)
    if recipe.edge:
        _check_runtimes(recipe.edge, shop.load(recipe.model))
    return [
        Timing(shop, f"time: {name}", name, settings, answers, next(iter(trains.values())), comparison)
        for name, settings in wanted.items()
    ]
