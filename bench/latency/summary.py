"""Rows from raw times: quantiles, paired speed-ups with intervals, and break-even budgets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from zlib import crc32

from bench.evaluation.times import Quantiles, Speedup
from bench.latency.measure import Measured
from bench.latency.request import LatencyCell, RequestCost, RequestTiming

STAGES = {  # stages of a request, in order: functions from a timing to seconds
    "vision": lambda shot: shot.vision,
    "selection": lambda shot: shot.selection,
    "prefill": lambda shot: shot.prefill,
    "prefill with selection": lambda shot: shot.prefill + shot.selection,
    "other": lambda shot: shot.first - shot.vision - shot.selection - shot.prefill,
    "first token": lambda shot: shot.first,
    "token after": lambda shot: shot.step,
    "total": lambda shot: shot.total,
}
COMPARED = ("prefill with selection", "first token", "total")
FEWEST = 20  # repetitions below which a note says that they are few


@dataclass(frozen=True)
class LatencyRow:
    """One cell; `speedups` are against vanilla in the same mode, empty for vanilla or without its times."""

    cell: LatencyCell
    untouched: bool
    cost: RequestCost
    seconds: Mapping[str, Quantiles]  # by stage; without "token after" if there was one token
    speedups: Mapping[str, Speedup]
    memory: int | None  # bytes, maximum over rounds
    joules: float | None  # of one request
    roofline: float | None  # FLOP/s of prefill and selection, as a share of a large matrix product's

    @property
    def few(self) -> bool:
        return self.seconds["total"].n < FEWEST


@dataclass(frozen=True)
class BreakEven:
    """The number of visual tokens up to which a method is faster than vanilla, at the end of one stage.

    It is interpolated linearly between the measured budgets, and not extrapolated: `tokens` is None if not
    even the smallest budget is faster, and `beyond` is true if the largest still is.
    """

    method: str
    mode: str
    stage: str
    tokens: float | None
    beyond: bool
    budgets: tuple[int, ...]

    def __str__(self) -> str:
        if self.tokens is None:
            return f"none (< {self.budgets[0]})"
        return f"all measured (>= {self.budgets[-1]})" if self.beyond else f"{self.tokens:.0f}"


def rows(measured: Measured, cells: Sequence[LatencyCell], vanilla: str, batch: int) -> list[LatencyRow]:
    """A row for every timed cell, in the order of `cells`."""
    timed = [cell for cell in cells if cell in measured.costs and measured.rounds.shots(cell)]
    whole = {cell.mode: cell for cell in timed if cell.method == vanilla}
    return [_row(measured, cell, whole.get(cell.mode), batch) for cell in timed]


def _row(measured: Measured, cell: LatencyCell, vanilla: LatencyCell | None, batch: int) -> LatencyRow:
    shots, cost = measured.rounds.shots(cell), measured.costs[cell]
    seconds = {
        stage: Quantiles.of(values)
        for stage in STAGES
        if None not in (values := [STAGES[stage](shot) for shot in shots.values()])
    }
    speedups = {}
    if vanilla and vanilla != cell:
        theirs = measured.rounds.shots(vanilla)
        both = [number for number in shots if number in theirs]
        for stage in COMPARED if both else ():
            speedups[stage] = Speedup.of(
                _column(stage, [theirs[number] for number in both]),
                _column(stage, [shots[number] for number in both]),
                crc32(repr((*cell, stage)).encode()),
            )
    busy = seconds["prefill with selection"].median
    return LatencyRow(
        cell=cell,
        untouched=vanilla == cell,
        cost=cost,
        seconds=seconds,
        speedups=speedups,
        memory=max((shot.memory for shot in shots.values() if shot.memory), default=None),
        joules=measured.joules.get(cell),
        roofline=batch * cost.ledger.prefill_flops / busy / measured.peak if measured.peak else None,
    )


def _column(stage: str, shots: Sequence[RequestTiming]) -> list[float]:
    return [STAGES[stage](shot) for shot in shots]


def break_evens(table: Sequence[LatencyRow], stages: Sequence[str] = COMPARED) -> list[BreakEven]:
    """The break-even for every method, mode and stage."""
    groups: dict[tuple[str, str], list[LatencyRow]] = {}
    for row in table:
        if row.speedups:
            groups.setdefault((row.cell.method, row.cell.mode), []).append(row)
    return [
        BreakEven(
            method, mode, stage,
            *break_even([(row.cell.keep, row.speedups[stage].times) for row in group]),
            budgets=tuple(sorted(row.cell.keep for row in group)),
        )
        for (method, mode), group in groups.items()
        for stage in stages
    ]  # fmt: skip


def break_even(points: Sequence[tuple[int, float]]) -> tuple[float | None, bool]:
    """Return the largest budget up to which all are as fast as vanilla, and whether all budgets are.

    `points` are budgets with their speed-ups, interpolated linearly.
    """
    ordered = sorted(points)
    if ordered[0][1] < 1:
        return None, False
    for (low, fast), (high, slow) in zip(ordered, ordered[1:], strict=False):
        if slow < 1:
            return low + (high - low) * (fast - 1) / (fast - slow), False
    return float(ordered[-1][0]), True


def slower(table: Sequence[LatencyRow], tokens: int) -> list[str]:
    """Describe methods slower than vanilla at a third of the tokens or fewer, with each stage's gap."""
    whole = {row.cell.mode: row for row in table if row.untouched}
    said = []
    for row in table:
        speedup = row.speedups.get("total")
        if speedup is None or row.cell.keep * 3 > tokens or speedup.high >= 1:
            continue
        name = f"{row.cell.method} at {row.cell.keep} tokens"
        said.append(f"{name} is slower than vanilla ({speedup}): {_reason(row, whole[row.cell.mode])}")
    return said


def _reason(row: LatencyRow, whole: LatencyRow) -> str:
    steps = row.seconds.get("token after"), whole.seconds.get("token after")
    gaps = {
        stage: row.seconds[stage].median - whole.seconds[stage].median
        for stage in ("vision", "selection", "prefill", "other")
    }
    if steps[0] and steps[1]:
        gaps["a token after the first"] = steps[0].median - steps[1].median
    listed = sorted(gaps.items(), key=lambda gap: -gap[1])
    return ", ".join(f"{stage} {1000 * gap:+.2f} ms" for stage, gap in listed)


def record(row: LatencyRow, shots: Mapping[int, RequestTiming]) -> dict[str, Any]:
    """A row with its raw times, ready for JSON."""
    ledger = row.cost.ledger
    return {
        **row.cell._asdict(),
        "n": row.seconds["total"].n,
        "seconds": {stage: vars(each) for stage, each in row.seconds.items()},
        "speedups": {stage: vars(each) for stage, each in row.speedups.items()},
        "memory bytes": row.memory,
        "joules": row.joules,
        "roofline": row.roofline,
        "host waits": row.cost.waits,
        "ledger": {
            "entering": list(ledger.entering),
            "cached": list(ledger.in_cache),
            "text": ledger.text,
            "average": ledger.average,
            "selection_flops": ledger.selection,
            "prefill_flops": ledger.prefill_flops,
            "kv_bytes": ledger.kv_bytes(),
        },
        "samples": [{"round": number, **vars(shot)} for number, shot in shots.items()],
    }
