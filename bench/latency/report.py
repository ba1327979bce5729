"""Tables and figures of a latency run: terminal text, CSV, Markdown, JSON, PNG."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import NonNegativeFloat

from bench.latency.measure import Measured
from bench.latency.request import LatencyCell
from bench.latency.summary import COMPARED, BreakEven, LatencyRow, break_evens, record, rows, slower
from bench.report.outputs import put
from bench.report.pictures import curves, save
from bench.report.sheet import Sheet, html
from bench.report.table import MISSING
from bench.report.tables import Table, bullets
from compress.documents import Document, read
from compress.keep import StoredKeep

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN = {  # column -> stage
    "vision": "vision",
    "selection": "selection",
    "prefill": "prefill",
    "with selection": "prefill with selection",
    "first token": "first token",
    "token after": "token after",
    "total": "total",
}
COST, ACCURACY = "prefill with selection over visual tokens", "share of vanilla over prefill with selection"
FASTER = {"prefill x": "prefill with selection", "total x": "total"}


@dataclass(frozen=True)
class LatencyReport:
    """All results of a run.

    `facts` name model, device and conditions; `accuracy` holds shares of vanilla in percent, by method and
    budget, from a comparison.
    """

    measured: Measured
    cells: Sequence[LatencyCell]
    facts: Mapping[str, Any]
    vanilla: str
    tokens: int  # visual tokens of the untouched model
    batch: int
    accuracy: Mapping[tuple[str, int], float] = field(default_factory=dict)

    @cached_property
    def rows(self) -> list[LatencyRow]:
        return rows(self.measured, self.cells, self.vanilla, self.batch)

    @cached_property
    def break_evens(self) -> list[BreakEven]:
        return break_evens(self.rows)

    def notes(self) -> list[str]:
        """Notes that a reader of the tables needs."""
        found = []
        if few := sorted({row.seconds["total"].n for row in self.rows if row.few}):
            found.append(f"few repetitions ({', '.join(map(str, few))}): take the intervals as rough")
        found += slower(self.rows, self.tokens)
        found += [
            f"{cell.method} at {cell.keep} tokens, {cell.mode}: {why}"
            for cell, why in self.measured.problems.items()
        ]
        return found


# Tables ---------------------------------------------------------------------------------------------------


def table(report: LatencyReport) -> Table:
    """Medians in milliseconds, a row per cell; speed-ups with their 95 % interval."""
    several = len({cell.mode for cell in report.cells}) > 1
    energy = ["J"] if report.measured.joules else []
    header = ["method", "keep", *(["mode"] if several else []), "tokens/layer", *SHOWN, *FASTER, "MiB",
              *energy, "roof %", "waits"]  # fmt: skip
    lines = []
    for row in report.rows:
        seconds = [row.seconds.get(stage) for stage in SHOWN.values()]
        faster = [row.speedups.get(stage) for stage in FASTER.values()]
        lines.append(
            [
                row.cell.method, str(row.cell.keep), *([row.cell.mode] if several else []),
                f"{row.cost.ledger.average:.1f}",
                *(f"{1000 * each.median:.2f}" if each else MISSING for each in seconds),
                *(str(each) if each else "" for each in faster),
                f"{row.memory / 2**20:.0f}" if row.memory else MISSING,
                *([MISSING if row.joules is None else f"{row.joules:.2f}"] if energy else []),
                f"{100 * row.roofline:.0f}" if row.roofline else MISSING,
                str(row.cost.waits),
            ]
        )  # fmt: skip
    return Table(header, lines)


def break_even_table(report: LatencyReport) -> Table:
    """The number of visual tokens below which each method is faster than vanilla, by stage."""
    found: dict[tuple[str, str], list[str]] = {}
    for each in report.break_evens:
        found.setdefault((each.method, each.mode), []).append(str(each))
    modes = len({mode for _, mode in found}) > 1
    header = ["faster than vanilla up to", *dict.fromkeys(each.stage for each in report.break_evens)]
    return Table(
        header, [[f"{method}, {mode}" if modes else method, *told] for (method, mode), told in found.items()]
    )


def curve_table(report: LatencyReport, stage: str) -> Table:
    """Speed-ups of one stage, a row per method and a column per budget, the largest first."""
    budgets = sorted({row.cell.keep for row in report.rows if not row.untouched}, reverse=True)
    found: dict[str, dict[int, str]] = {}
    for row in report.rows:
        if row.speedups:
            found.setdefault(_name(report, row), {})[row.cell.keep] = f"{row.speedups[stage].times:.2f}"
    lines = [[name, *(told.get(budget, MISSING) for budget in budgets)] for name, told in found.items()]
    return Table([f"{stage}: times faster at", *map(str, budgets)], lines)


def in_words(report: LatencyReport, title: str) -> str:
    """Tables and notes for a terminal."""
    words = replace(table(report), title=title).text()
    if report.break_evens:
        title = "break-even: the most visual tokens with which it is faster"
        words += replace(break_even_table(report), title=title).text()
    return words + "".join(f"{note}\n" for note in report.notes())


def markdown(report: LatencyReport) -> str:
    """Facts, all tables and notes."""
    lines = [f"- {name}: {_flat(value)}" for name, value in report.facts.items()]
    clock = report.facts["clock"]
    lines += [
        "",
        f"Medians in ms of {clock} time; speed-ups against vanilla, paired, with 95 % intervals.",
        "",
    ]
    tables = [table(report)]
    if report.break_evens:
        tables += [break_even_table(report), *(curve_table(report, stage) for stage in COMPARED)]
    page = "\n".join(["\n".join(lines), *(one.markdown() for one in tables)])
    notes = report.notes()
    return page + ("\n" + "\n".join(bullets(notes)) + "\n" if notes else "")


def _flat(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def quantiles(report: LatencyReport) -> Table:
    """A row per cell and stage, with every quantile, in seconds: for CSV."""
    names = ["n", "median", "p10", "p90", "p99", "least", "most"]
    lines = []
    for row in report.rows:
        for stage, seconds in row.seconds.items():
            faster = row.speedups.get(stage)
            told = [faster.times, faster.low, faster.high] if faster else [""] * 3
            values = ["" if (value := getattr(seconds, name)) is None else value for name in names]
            lines.append([*map(str, [*row.cell, row.cost.ledger.average, stage, *values, *told])])
    return Table([*LatencyCell._fields, "tokens per layer", "stage", *names, "speedup", "low", "high"], lines)


def results(report: LatencyReport) -> dict[str, Any]:
    """All results of a run, with raw times, ready for JSON."""
    return {
        "facts": dict(report.facts),
        "peak flops": report.measured.peak,
        "rows": [record(row, report.measured.rounds.shots(row.cell)) for row in report.rows],
        "break-even": [asdict(each) for each in report.break_evens],
        "impossible": [{**cell._asdict(), "why": why} for cell, why in report.measured.problems.items()],
        "accuracy": [
            {"method": method, "keep": keep, "share": share}
            for (method, keep), share in report.accuracy.items()
        ],
        "notes": report.notes(),
    }


# Figures --------------------------------------------------------------------------------------------------


def cost_against_tokens(report: LatencyReport) -> Figure:
    """Prefill with selection over visual tokens per layer, a line per method, vanilla dashed."""
    lines: dict[str, list[tuple[float, float]]] = {}
    for row in report.rows:
        if not row.untouched:
            point = row.cost.ledger.average, 1000 * row.seconds["prefill with selection"].median
            lines.setdefault(_name(report, row), []).append(point)
    return curves(lines, "visual tokens per layer", "LLM prefill with selection, ms", levels=_levels(report))


def accuracy_against_latency(report: LatencyReport) -> Figure:
    """Share of vanilla's score over prefill with selection (paper Figure 4), a line per method."""
    lines: dict[str, list[tuple[float, float]]] = {}
    for row in report.rows:
        share = 100.0 if row.untouched else report.accuracy.get((row.cell.method, row.cell.keep))
        if share is not None:
            latency = 1000 * row.seconds["prefill with selection"].median
            lines.setdefault(_name(report, row), []).append((latency, share))
    return curves(lines, "LLM prefill with selection, ms", "mean share of vanilla, %")


def _levels(report: LatencyReport) -> dict[str, float]:
    return {
        _name(report, row): 1000 * row.seconds["prefill with selection"].median
        for row in report.rows
        if row.untouched
    }


def _name(report: LatencyReport, row: LatencyRow) -> str:
    several = len({cell.mode for cell in report.cells}) > 1
    return f"{row.cell.method}, {row.cell.mode}" if several else row.cell.method


# Files ----------------------------------------------------------------------------------------------------


def sheet(report: LatencyReport, plots: Mapping[str, bytes]) -> Sheet:
    """The HTML page; `plots` maps captions to PNGs."""
    about = (
        f"Medians in ms of {report.facts['clock']} time; speed-ups against vanilla, paired, with 95 % "
        f"intervals."
    )
    tables = {"Times": replace(table(report), notes=report.notes())}
    if report.break_evens:
        tables["Break-even"] = break_even_table(report)
        tables |= {f"Speed-up, {stage}": curve_table(report, stage) for stage in COMPARED}
    return Sheet(f"Latency of {report.facts['model']}", about, tables, report.facts, plots)


def write(report: LatencyReport, out: Path) -> None:
    """Write results.json, latency.csv, latency.md, latency.html and pictures, next to the raw rounds."""
    pictures = out / "pictures"
    pictures.mkdir(parents=True, exist_ok=True)
    drawn = {COST: save(cost_against_tokens(report), pictures / "cost.png")}
    if report.accuracy:
        drawn[ACCURACY] = save(accuracy_against_latency(report), pictures / "accuracy.png")
    page = sheet(report, {name: path.read_bytes() for name, path in drawn.items()})
    texts = {
        "results.json": json.dumps(results(report), indent=1) + "\n",
        "latency.csv": quantiles(report).csv(),
        "latency.md": markdown(report),
        "latency.html": html(page),
    }
    for name, text in texts.items():
        put(out / name, text)


def read_accuracy(folder: Path) -> dict[tuple[str, int], float]:
    """Read the mean share of vanilla's score in percent, by method and budget, from a comparison's folder.

    ValueError for a folder without a comparison.
    """
    path = folder / "results.json"
    try:
        rows = read(_ComparisonDocument, path).summary
    except (OSError, ValueError) as problem:
        why = f"{path}: {problem.strerror}" if isinstance(problem, OSError) else problem
        raise ValueError(f"{why}; give the --out folder of evocomp compare") from problem
    return {
        (row.method, row.keep): row.average
        for row in rows
        if row.average is not None and isinstance(row.keep, int)
    }


class _Summary(Document):
    """The fields that are read from a row."""

    method: str
    keep: StoredKeep
    average: NonNegativeFloat | None


class _ComparisonDocument(Document):
    """The fields that are read from a comparison's results.json."""

    summary: tuple[_Summary, ...]
