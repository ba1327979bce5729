"""Table 4: stages, total and speed-up by visual tokens, with a model of prefill time that counts chunks."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.edge.chain import STAGES
from bench.edge.timing import EdgeTimes, Measurement
from bench.evaluation.times import Speedup
from bench.report.outputs import put
from bench.report.sheet import Sheet, html
from bench.report.table import MISSING
from bench.report.tables import Table

HEADER = (
    "runtime", "tokens", "visual encoding", "compression", "prefill", "chunks", "chunk model",
    "decode", "total", "p10 to p90", "speed-up", "95 %", "first token",
)  # fmt: skip


@dataclass(frozen=True)
class EdgeRow:
    """Medians in milliseconds. `total` and `speedup` include one decoded token, as in the paper.

    `model` is the prefill time that chunks alone would explain; `first` is the speed-up of the first token.
    """

    keep: int
    stages: dict[str, float]
    chunks: int | None
    model: float | None
    total: float
    low: float  # the total's 10th and 90th percentile
    high: float
    speedup: float
    interval: tuple[float, float] | None  # 95 %; None for a single round
    first: float


def rows(measured: Measurement) -> list[EdgeRow]:
    """One row per budget; speed-ups are against the first row, the untouched model's."""
    models, made = chunk_model(measured.cells), []
    whole = measured.cells[0]
    for cell, model in zip(measured.cells, models, strict=True):
        total = totals(cell)
        low, high = np.percentile(total, [10, 90])
        faster = Speedup.of(totals(whole), total)
        paired = cell is not whole and len(total) > 1
        made.append(
            EdgeRow(
                keep=cell.keep,
                stages={stage: float(np.median(cell.samples[stage])) for stage in STAGES},
                chunks=cell.chunks,
                model=model if measured.padded else None,
                total=float(np.median(total)),
                low=float(low),
                high=float(high),
                speedup=faster.times,
                interval=(faster.low, faster.high) if paired else None,
                first=Speedup.of(totals(whole, STAGES[:-1]), totals(cell, STAGES[:-1])).times,
            )
        )
    return made


def totals(cell: EdgeTimes, stages: Sequence[str] = STAGES) -> list[float]:
    """Sums of the stages by round."""
    return [sum(values) for values in zip(*(cell.samples[stage] for stage in stages), strict=True)]


def chunk_model(cells: Sequence[EdgeTimes]) -> list[float | None]:
    """Prefill times under a constant cost per chunk: least squares, one cost per context.

    The cost differs between contexts, since every chunk attends to the whole cache.
    """
    costs: dict[int, float] = {}
    for context in {cell.context for cell in cells}:
        same = [cell for cell in cells if cell.context == context and cell.chunks]
        times = [float(np.median(cell.samples["prefill"])) for cell in same]
        counts = [cell.chunks or 0 for cell in same]
        if same:
            costs[context] = float(np.dot(counts, times) / np.dot(counts, counts))
    return [cell.chunks * costs[cell.context] if cell.chunks else None for cell in cells]


def table(measured: Sequence[Measurement]) -> Table:
    """All runtimes, times in milliseconds, with the notes of each."""
    lines = [
        [
            f"{one.runtime} {one.label}", str(row.keep), _ms(row.stages["vision"]),
            _ms(row.stages["compression"]) if row.stages["compression"] else MISSING,
            _ms(row.stages["prefill"]), str(row.chunks or MISSING),
            MISSING if row.model is None else _ms(row.model), _ms(row.stages["decode"]), _ms(row.total),
            f"{_ms(row.low)} to {_ms(row.high)}", f"{row.speedup:.1f}x",
            MISSING if row.interval is None else f"{row.interval[0]:.2f} to {row.interval[1]:.2f}",
            f"{row.first:.1f}x",
        ]
        for one in measured
        for row in rows(one)
    ]  # fmt: skip
    return Table(HEADER, lines, [note for one in measured for note in notes(one)])


def _ms(value: float) -> str:
    """Milliseconds with about three significant digits."""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def notes(measured: Measurement) -> list[str]:
    """Notes for the table: conditions, agreement with torch, memory."""
    name = f"{measured.runtime} {measured.label}"
    lines = [f"{name}: {fact}" for fact in measured.facts]
    if not measured.padded:
        lines.append(f"{name}: prompts are not padded to whole chunks, so steps are not a phone's")
    if one := measured.parity:
        lines.append(
            f"{name} against the same weights in torch: {one.same_answer} of {one.questions} answers and "
            f"{one.same_kept} of {one.questions} choices are equal; {100 * one.same_word:.1f} % of "
            f"{one.logits} next words; logits differ by {one.worst:.1e} at most (relative L2)"
        )
    told = [f"{key} {size / 2**20:.1f} MiB" for key, size in measured.memory.items()
            if size is not None]  # fmt: skip
    if told:
        lines.append(f"{name}, memory: {', '.join(told)}")
    return lines


def results(measured: Sequence[Measurement], facts: dict[str, str]) -> dict[str, Any]:
    """All results in machine-readable form, with raw samples."""
    return {
        "environment": facts,
        "unit": "ms",
        "runtimes": [
            {
                **{key: value for key, value in asdict(one).items() if key != "cells"},
                "rows": [
                    asdict(row) | {"samples": cell.samples, "context": cell.context, "prompt": cell.rows}
                    for row, cell in zip(rows(one), one.cells, strict=True)
                ],
            }
            for one in measured
        ],
    }


def figures(measured: Sequence[Measurement]) -> Table:
    """The same table with all digits, for CSV."""
    header = ["runtime", "precision", "tokens", *STAGES, "chunks", "chunk_model", "total", "p10", "p90",
              "speedup", "speedup_low", "speedup_high", "first_token_speedup"]  # fmt: skip
    lines = []
    for one in measured:
        for row in rows(one):
            spread = row.interval or ("", "")
            cells = [one.runtime, one.label, row.keep, *row.stages.values(), row.chunks or "",
                     "" if row.model is None else row.model, row.total, row.low, row.high, row.speedup,
                     *spread, row.first]  # fmt: skip
            lines.append([*map(str, cells)])
    return Table(header, lines)


def sheet(measured: Sequence[Measurement], facts: Mapping[str, str]) -> Sheet:
    about = "Medians in ms; speed-ups against the untouched model, with 95 % intervals over rounds."
    return Sheet("The chain of a phone", about, {"Stages": table(measured)}, facts)


def write(measured: Sequence[Measurement], facts: dict[str, str], folder: Path) -> None:
    """Write edge.json with all samples, edge.csv, edge.md and edge.html."""
    folder.mkdir(parents=True, exist_ok=True)
    put(folder / "edge.json", json.dumps(results(measured, facts), indent=1) + "\n")
    put(folder / "edge.csv", figures(measured).csv())
    put(folder / "edge.md", table(measured).markdown())
    put(folder / "edge.html", html(sheet(measured, facts)))
