"""The remaining work of a comparison, and its expected duration from earlier measurements."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.evaluation.cells import CellKey, read_cells, stem_of
from bench.evaluation.compare import PreparedComparison
from bench.evaluation.history import Times
from bench.evaluation.protocol import Facts

SAME_SPEED = ("model", "dtype", "device", "batch")  # facts of a protocol that a rate depends on


@dataclass(frozen=True)
class PlannedCell:
    """A cell of a comparison. `answers` counts all draws, `parts` are the sizes of the parts for workers.

    `rate` is seconds per answer of one worker; None if none was measured.
    """

    key: CellKey
    answers: int
    parts: tuple[int, ...]
    finished: bool = False
    impossible: str = ""
    rate: float | None = None

    @property
    def left(self) -> int:
        return 0 if self.finished or self.impossible else self.answers

    @property
    def seconds(self) -> float | None:
        """The remaining seconds for one worker."""
        if not self.left:
            return 0.0
        return None if self.rate is None else self.left * self.rate


def planned(prepared: PreparedComparison, rates: Path | None = None) -> list[PlannedCell]:
    """List the cells of a comparison in the order of the work.

    Rates come from finished cells in the comparison's folder and in `rates`, with the same model, dtype, kind
    of device and batch: the mean over the budgets of the same method and task, or else over all methods of
    the task. ValueError if `rates` has no such cells.
    """
    folders = [one for one in (prepared.folder, rates) if one]
    measured = [_measured(folder, prepared.protocol) for folder in folders]
    if rates and not measured[-1]:
        wanted = ", ".join(f"{name} {prepared.protocol[name]}" for name in SAME_SPEED)
        raise ValueError(
            f"{rates} has no times of {wanted}: run a few questions into it with the same settings, for "
            f"instance -n 50"
        )
    spent: dict[tuple[str, ...], list[float]] = {}
    for key, seconds, answers in (one for listed in measured for one in listed):
        for group in ((key.method, key.task), (key.task,)):
            total = spent.setdefault(group, [0.0, 0.0])
            total[0] += seconds
            total[1] += answers
    found = []
    for key in prepared.keys:
        parts = tuple(part.stop - part.start for part in prepared.settings.parts(key))
        known = spent.get((key.method, key.task)) or spent.get((key.task,))
        found.append(
            PlannedCell(
                key, sum(parts), parts, prepared.cells.finished(key), prepared.reasons.get(key, ""),
                known[0] / known[1] if known else None,
            )
        )  # fmt: skip
    return found


def parts_left(cells: Iterable[PlannedCell]) -> Iterator[float]:
    """Yield the seconds of every remaining part, in the order of the work; skip cells without a rate."""
    for cell in cells:
        if cell.left and cell.rate is not None:
            yield from (part * cell.rate for part in cell.parts)


def makespan(seconds: Iterable[float], workers: int) -> float:
    """The time at which the last job is done, if every worker takes the next job as it becomes free."""
    free = [0.0] * workers
    for one in seconds:
        heapq.heapreplace(free, free[0] + one)
    return max(free)


def _measured(folder: Path, protocol: Facts) -> list[tuple[CellKey, float, int]]:
    """Finished cells with their seconds and numbers of answers."""
    seconds = Times.read(folder).seconds
    return [
        (cell.key, seconds[stem], len(cell.outcome.samples) * max(1, len(cell.outcome.draws)))
        for cell in read_cells(folder)
        if cell.outcome and (stem := stem_of(cell.key)) in seconds
        and all(cell.protocol.get(name) == protocol[name] for name in SAME_SPEED)
    ]  # fmt: skip
