"""Results of a served run: rates, waiting times, and ratios to no compression, with intervals."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any
from zlib import crc32

from bench.evaluation.times import Quantiles, Speedup
from bench.report.outputs import put
from bench.report.pictures import curves, save
from bench.report.sheet import Sheet, html
from bench.report.tables import Table
from bench.serving.run import CellRound, Served, ServingCell
from bench.serving.settings import NONE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MISSING = "–"
PLOT = "requests per second over tokens of a prompt"


@dataclass(frozen=True)
class ServingRow:
    """One cell; ratios are improvements over no compression under the same load."""

    cell: ServingCell
    requests: float  # per second, median over rounds
    tokens: float  # of answers, per second
    prompt: float  # mean number of prompt tokens
    to_first: Quantiles  # seconds, over all requests
    per_token: Quantiles | None
    ratios: Mapping[str, Speedup]  # of "requests" and "to first"; empty without compression


@dataclass(frozen=True)
class ServingReport:
    rows: Sequence[ServingRow]
    facts: Mapping[str, Any]
    served: Served

    def notes(self) -> list[str]:
        rounds = len(self.served.rounds)
        found = [f"{rounds} rounds; in each one all lines have their turn, in a random order."]
        if any(row.ratios for row in self.rows):
            found.append(
                "Ratios are to nothing compressed under the same load, in the same round (higher is better): "
                "median over rounds, with 95 % bootstrap intervals over rounds."
            )
        if self.served.stopped:
            found.append("The limit of time ended the run early.")
        whole = {row.cell.load: row.prompt for row in self.rows if row.cell.method == NONE}
        longer = dict.fromkeys(
            f"{row.cell.method} at {row.cell.keep}"
            for row in self.rows
            if row.cell.method != NONE and row.prompt >= whole[row.cell.load]
        )
        if longer:
            found.append(
                f"Prompts are as long as with nothing compressed: {', '.join(longer)}. Either nothing is to "
                f"be dropped, or the server runs without the plug-in."
            )
        if rounds < 6:
            found.append("Few rounds: intervals are rough.")
        return found


def report(served: Served, facts: Mapping[str, Any]) -> ServingReport:
    return ServingReport([_row(served, cell) for cell in served.cells], facts, served)


def _row(served: Served, cell: ServingCell) -> ServingRow:
    turns = served.turns(cell)
    replies = [reply for turn in turns for reply in turn.replies]
    steps = [reply.per_token for reply in replies if reply.per_token is not None]
    whole, ratios = cell._replace(method=NONE, keep=None), {}
    if cell.method != NONE and whole in served.cells:
        theirs = served.turns(whole)
        for name, cost in (("requests", _seconds_each), ("to first", _wait)):
            seed = crc32(repr((*cell, name)).encode())
            ratios[name] = Speedup.of([cost(turn) for turn in theirs], [cost(turn) for turn in turns], seed)
    return ServingRow(
        cell=cell,
        requests=median(len(turn.replies) / turn.seconds for turn in turns),
        tokens=median(sum(reply.tokens for reply in turn.replies) / turn.seconds for turn in turns),
        prompt=sum(reply.prompt for reply in replies) / len(replies),
        to_first=Quantiles.of([reply.to_first for reply in replies]),
        per_token=Quantiles.of(steps) if steps else None,
        ratios=ratios,
    )


def _seconds_each(turn: CellRound) -> float:
    return turn.seconds / len(turn.replies)


def _wait(turn: CellRound) -> float:
    return median(reply.to_first for reply in turn.replies)


def _ms(value: float | None) -> str:
    return MISSING if value is None else f"{1000 * value:.0f}"


def table(report: ServingReport) -> Table:
    header = [
        "method", "keep", "load", "prompt", "requests/s", "x none", "tokens/s",
        "first token p50", "p90", "p99", "x none", "token after p50", "p90", "p99",
    ]  # fmt: skip
    lines = []
    for row in report.rows:
        first, after = row.to_first, row.per_token
        lines.append([
            row.cell.method, MISSING if row.cell.keep is None else str(row.cell.keep), row.cell.load,
            f"{row.prompt:.0f}", f"{row.requests:.2f}", _ratio(row, "requests"), f"{row.tokens:.1f}",
            *(_ms(value) for value in (first.median, first.p90, first.p99)), _ratio(row, "to first"),
            *(_ms(value) for value in ((after.median, after.p90, after.p99) if after else [None] * 3)),
        ])  # fmt: skip
    return Table(header, lines, report.notes(), "served: waiting times in ms")


def _ratio(row: ServingRow, name: str) -> str:
    return str(row.ratios[name]) if name in row.ratios else MISSING


def quantiles(report: ServingReport) -> Table:
    """All numbers in seconds, for CSV."""
    names = ("n", "median", "p10", "p90", "p99", "least", "most")
    header = [
        *ServingCell._fields, "prompt tokens", "requests per second", "tokens per second",
        *(f"{of} {name}" for of in ("first token", "token after") for name in names),
        *(f"{of} {name}" for of in ("requests", "first token") for name in ("ratio", "low", "high")),
    ]  # fmt: skip
    lines = []
    for row in report.rows:
        times = [
            getattr(each, name) if each else None for each in (row.to_first, row.per_token) for name in names
        ]
        told = [row.ratios.get(name) for name in ("requests", "to first")]
        ratios = [value for one in told for value in ((one.times, one.low, one.high) if one else (None,) * 3)]
        values = [*row.cell, row.prompt, row.requests, row.tokens, *times, *ratios]
        lines.append(["" if value is None else str(value) for value in values])
    return Table(header, lines)


def results(report: ServingReport) -> dict[str, Any]:
    """All results, with the times of every request, ready for JSON."""
    rows = []
    for row in report.rows:
        turns = [
            {"seconds": turn.seconds, "replies": [asdict(reply) for reply in turn.replies]}
            for turn in report.served.turns(row.cell)
        ]
        ratios = {name: asdict(ratio) for name, ratio in row.ratios.items()}
        told = {"requests per second": row.requests, "ratios": ratios, "turns": turns}
        rows.append({**row.cell._asdict(), **told})
    return {"facts": dict(report.facts), "notes": report.notes(), "rows": rows}


def markdown(report: ServingReport) -> str:
    facts = [f"- {name}: {value}" for name, value in report.facts.items()]
    return "\n".join([*facts, "", table(report).markdown()])


def ratios(report: ServingReport) -> Figure:
    """Requests per second over prompt tokens, as ratios to no compression: a line per method and load."""
    lines: dict[str, list[tuple[float, float]]] = {}
    for row in report.rows:
        if row.ratios:
            name = f"{row.cell.method}, {row.cell.load}"
            lines.setdefault(name, []).append((row.prompt, row.ratios["requests"].times))
    up = "requests per second, times those of none"
    return curves(lines, "tokens of a prompt", up, levels={"none": 1.0})


def sheet(report: ServingReport, plots: Mapping[str, bytes]) -> Sheet:
    """The HTML page's content; `plots` are PNGs by caption."""
    about = f"Requests per second and waiting times in ms, {len(report.served.rounds)} rounds."
    title = f"{report.facts.get('model', 'A model')} under load"
    return Sheet(title, about, {"Served": table(report)}, report.facts, plots)


def write(report: ServingReport, out: Path) -> None:
    """Write results.json, serving.csv, serving.md, serving.html and a picture."""
    pictures = out / "pictures"
    pictures.mkdir(parents=True, exist_ok=True)
    plots = {}
    if any(row.ratios for row in report.rows):
        plots[PLOT] = save(ratios(report), pictures / "requests.png").read_bytes()
    put(out / "results.json", json.dumps(results(report), indent=1) + "\n")
    put(out / "serving.csv", quantiles(report).csv())
    put(out / "serving.md", markdown(report))
    put(out / "serving.html", html(sheet(report, plots)))
