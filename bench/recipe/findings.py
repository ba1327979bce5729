"""From cells to findings: each row at each budget, averaged over its seeds, compared with the reference."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from math import isnan
from statistics import fmean

import numpy as np

from bench.evaluation.cells import Cell
from bench.evaluation.comparison import VANILLA
from bench.evaluation.evaluate import Outcome
from bench.evaluation.stats import LEVEL, Interval, contrast, holm, shares
from bench.tasks import Task
from compress.keep import Keep

RunCells = Mapping[tuple[str, int], Mapping[tuple[Keep, str], Cell]]  # (row, seed) -> (budget, task) -> cell


@dataclass(frozen=True)
class Finding:
    """One row at one budget. Shares are percentages of vanilla's score, averaged over tasks and seeds.

    `gap` is row minus reference, with its paired interval over images and over the seeds of both. `adjusted`
    is its p value after Holm's correction over the table. `seeds` are the shares of the single seeds, from
    the lowest seed on. `single` is true if the row or its reference is one network trained with one seed: the
    interval then covers no other trainings. A row has neither average nor gap if it is incomplete, or if it
    scores on a task where vanilla scores 0; `impossible` gives the reason.
    """

    row: str
    keep: Keep
    paper_keep: Keep
    scores: Mapping[str, float]
    average: float | None
    seeds: tuple[float, ...]
    tokens: float | None  # visual tokens entering a decoder layer, mean over layers
    left: float | None
    flops: float | None  # prefill FLOPs, percent of vanilla's
    vanilla: Interval | None = None
    gap: Interval | None = None
    p: float = 1.0
    adjusted: float = 1.0
    single: bool = False
    impossible: str = ""

    @property
    def significant(self) -> bool:
        return self.gap is not None and self.gap.clear and self.adjusted < LEVEL


def findings(
    cells: RunCells,
    tasks: Sequence[Task],
    budgets: Mapping[Keep, Keep],
    rows: Sequence[str],
    reference: str | None,
    trained: Collection[str] = (),
) -> list[Finding]:
    """A finding per budget and row, in the recipe's order; `trained` rows learn. Vanilla must be complete."""
    ((whole, vanilla),) = _outcomes(cells[VANILLA, 0]).items()
    names = [task.name for task in tasks]
    listed: list[Finding] = []
    for keep, paper_keep in budgets.items():
        runs: dict[tuple[str, int], dict[str, Outcome]] = {(VANILLA, 0): vanilla}
        reasons: dict[str, str] = {}
        for (row, seed), found in cells.items():
            complete = _outcomes(found).get(keep, {})
            if row != VANILLA and len(complete) == len(names):
                runs[row, seed] = complete
            for cell in found.values():
                if cell.key.keep == keep and cell.impossible:
                    reasons[row] = cell.impossible
        sums = {run: {name: np.array(one.sums) for name, one in made.items()} for run, made in runs.items()}
        drawn = shares(tasks, sums, (VANILLA, 0), {name: vanilla[name].images for name in names})
        by_row = {
            row: [drawn[run] for run in sorted(drawn) if run[0] == row]
            for row in dict.fromkeys(row for row, _ in runs)
        }
        shared = {row for row, each in by_row.items() if not any(isnan(one[0]) for one in each)}
        for row in rows:
            mine = [(seed, runs[name, seed]) for name, seed in sorted(runs) if name == row]
            if not mine:
                why = reasons.get(row, "it was not run")
                listed.append(Finding(row, keep, paper_keep, {}, None, (), None, None, None, impossible=why))
                continue
            each = [one for _, made in mine for one in made.values()]
            zero = ", ".join(name for name in names if not vanilla[name].score > 0)
            paired = reference is not None and reference != row and {row, reference} <= shared
            gap, p = contrast(by_row[row], by_row[reference]) if reference and paired else (None, 1.0)
            single = any(
                one in trained and len(by_row[one]) == 1 for one in (row, reference) if one in by_row
            )
            costs = [
                100 * one.cost.prefill_flops / vanilla[name].cost.prefill_flops
                for _, made in mine
                for name, one in made.items()
            ]
            listed.append(
                Finding(
                    row, keep, paper_keep,
                    {name: fmean(made[name].score for _, made in mine) for name in names},
                    fmean(float(one[0]) for one in by_row[row]) if row in shared else None,
                    tuple(float(drawn[row, seed][0]) for seed, _ in mine) if row in shared else (),
                    fmean(one.tokens for one in each), fmean(one.left for one in each), fmean(costs),
                    contrast(by_row[row], by_row[VANILLA])[0] if row in shared else None, gap, p,
                    single=single,
                    impossible="" if row in shared else f"no share of zero: {VANILLA} scores 0 ({zero})",
                )
            )  # fmt: skip
    return _corrected(listed)


def untouched(cells: RunCells, tasks: Sequence[Task]) -> dict[str, Outcome]:
    """Vanilla's outcomes by task."""
    ((_, vanilla),) = _outcomes(cells[VANILLA, 0]).items()
    return {task.name: vanilla[task.name] for task in tasks}


def _outcomes(found: Mapping[tuple[Keep, str], Cell]) -> dict[Keep, dict[str, Outcome]]:
    by_keep: dict[Keep, dict[str, Outcome]] = {}
    for (keep, task), cell in found.items():
        if cell.outcome:
            by_keep.setdefault(keep, {})[task] = cell.outcome
    return by_keep


def _corrected(listed: Sequence[Finding]) -> list[Finding]:
    """The findings with p values corrected for the number of tests in the table."""
    tested = [one for one in listed if one.gap]
    adjusted = dict(zip(map(id, tested), holm([one.p for one in tested]), strict=True)) if tested else {}
    return [replace(one, adjusted=adjusted.get(id(one), 1.0)) for one in listed]
