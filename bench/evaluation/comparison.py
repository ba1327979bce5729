"""Rows of a comparison from its cells: shares of vanilla, costs, significance, and scores on hard questions.

Cells with the same protocol form a group. Runs are compared pair by pair only within a group, and every row's
share refers to the vanilla of its own group.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import inf, isnan, nan
from statistics import fmean

import numpy as np

from bench.evaluation.cells import Cell, CellKey
from bench.evaluation.evaluate import Outcome
from bench.evaluation.protocol import Facts
from bench.evaluation.stats import LEVEL, MARGIN, Interval, Pairs, contrast, holm, mcnemar, share, shares
from bench.tasks import Task
from compress.budget import Match
from compress.keep import Keep
from compress.samples import Sample

VANILLA = "none"


@dataclass(frozen=True)
class Contrast:
    """The difference between a row and a rival on the same samples: row minus rival.

    `gap` is the difference of the mean share of vanilla, in points (None if a task is missing), with its `p`;
    `pooled` and `tasks` are tests on the units of all tasks together and of each task. `adjusted` values are
    corrected for the number of tests in the table; the gap's interval is not.
    """

    rival: str
    gap: Interval | None
    p: float
    adjusted: float
    pooled: Pairs
    tasks: Mapping[str, Pairs]

    @property
    def significant(self) -> bool:
        """True if the average differs by its own interval and after the table's correction."""
        return self.gap is not None and self.gap.clear and self.adjusted < LEVEL


@dataclass(frozen=True)
class ComparisonRow:
    """One method at one budget. Values that no cell provides are None, or missing in `scores`."""

    method: str
    keep: Keep
    scores: Mapping[str, float]  # by task, percent
    average: float | None  # mean over all tasks of score / vanilla score, percent
    tokens: float | None  # visual tokens entering a decoder layer, mean over layers, measured
    left: float | None  # visual tokens after the last stage, measured
    flops: float | None  # prefill, selection included, in percent of vanilla's
    untouched: bool = False  # vanilla's own row
    adaptive: bool = False  # the method sets the number of tokens itself: `keep` is not its budget
    trained: bool = False  # a network from a single training: another seed may give other answers
    vanilla: Contrast | None = None
    reference: Contrast | None = None


@dataclass(frozen=True)
class Difficulty:
    """Scores on the hard questions of a task: those that `method` does not answer correctly at this budget.

    A unit is easy if it earned at least half the credit. `scores` are the scores on the `hard` units by
    method, vanilla included; they are empty if no unit is hard.
    """

    task: str
    keep: Keep
    method: str
    easy: int
    hard: int
    scores: Mapping[str, float]


@dataclass(frozen=True)
class Comparison:
    """All rows (vanilla first, then by budget and average), with the outcome of every cell."""

    tasks: tuple[str, ...]
    rows: tuple[ComparisonRow, ...]
    outcomes: Mapping[tuple[str, Keep, str], Outcome]  # (method, keep, task)
    samples: Mapping[str, Sequence[Sample]] = field(default_factory=dict)
    reference: str | None = None
    margin: float = MARGIN  # points: averages whose interval lies within it are marked as equivalent
    match: Match = "equivalent"
    impossible: Mapping[tuple[str, Keep, str], str] = field(default_factory=dict)  # why no outcome exists
    difficulty: tuple[Difficulty, ...] = ()
    metrics: Mapping[str, str] = field(default_factory=dict)  # name of each task's score
    mixed: tuple[str, ...] = ()  # descriptions of differing protocols; empty in a fair table
    methods: Mapping[str, Facts] = field(default_factory=dict)  # facts of each row's method
    remarks: tuple[str, ...] = ()  # further notes for the reader


@dataclass(frozen=True)
class Group:
    """Cells under one protocol; `mark` labels their rows ("" for the first group)."""

    cells: Mapping[CellKey, Cell]
    tokens: int  # visual tokens of the untouched image
    mark: str = ""

    def name(self, method: str) -> str:
        return f"{method} {self.mark}".strip()

    def outcome(self, method: str, keep: Keep, task: str) -> Outcome | None:
        cell = self.cells.get(CellKey(method, keep, task))
        return cell.outcome if cell else None


def assemble(
    tasks: Sequence[Task],
    groups: Sequence[Group],
    keeps: Sequence[Keep],
    *,
    reference: str | None = None,
    difficulty: str | None = None,
    margin: float = MARGIN,
    match: Match = "equivalent",
    samples: Mapping[str, Sequence[Sample]] | None = None,
    mixed: Sequence[str] = (),
    remarks: Sequence[str] = (),
) -> Comparison:
    """Build the comparison of all groups: vanilla first, then budget by budget, the best average first.

    Adaptive rows, which have no budget, follow the others, and rows without an average come last.

    `difficulty` names the method whose correct answers mark a question as easy, in the first group.
    ValueError if a group lacks vanilla on a task that its other rows were measured on, and for a `margin`
    that is not above zero.
    """
    check_margin(margin)
    top: list[ComparisonRow] = []
    below: dict[Keep, list[ComparisonRow]] = {keep: [] for keep in keeps}
    outcomes: dict[tuple[str, Keep, str], Outcome] = {}
    impossible: dict[tuple[str, Keep, str], str] = {}
    methods: dict[str, Facts] = {}
    for group in groups:
        vanilla, *rows = _rows(group, tasks, keeps, reference)
        top.append(vanilla)
        for row in rows:
            below[row.keep].append(row)
        for (method, keep, task), cell in group.cells.items():
            place = group.name(method), keep, task
            methods[place[0]] = cell.method
            if cell.outcome:
                outcomes[place] = cell.outcome
            elif keep in below:
                impossible[place] = cell.impossible
    ranked = [
        *top,
        *(
            row
            for rows in below.values()
            for row in sorted(rows, key=lambda row: (row.average is None, row.adaptive, -(row.average or 0)))
        ),
    ]
    return Comparison(
        tasks=tuple(task.name for task in tasks),
        rows=tuple(_corrected(ranked)),
        outcomes=outcomes,
        samples=samples or {},
        metrics={task.name: task.metric for task in tasks},
        reference=reference,
        margin=margin,
        match=match,
        impossible=impossible,
        difficulty=tuple(
            one
            for keep in keeps
            for task in tasks
            if difficulty and (one := _difficulty(groups[0], task, keep, difficulty))
        ),
        mixed=tuple(mixed),
        methods=methods,
        remarks=tuple(remarks),
    )


def check_margin(margin: float) -> None:
    """ValueError unless `margin` is a number of points above zero."""
    if not 0 < margin < inf:
        raise ValueError(f"margin={margin}: choose a number of points above 0, for instance 2")


def _rows(
    group: Group, tasks: Sequence[Task], keeps: Sequence[Keep], reference: str | None
) -> list[ComparisonRow]:
    """Build vanilla's row and the rows of the methods; p values are not yet corrected."""
    whole = (VANILLA, group.tokens)
    named = dict.fromkeys((key.method, key.keep) for key in group.cells if key.method != VANILLA)
    runs = [whole, *(run for run in named if run[1] in keeps)]
    found = {
        run: {task.name: outcome for task in tasks if (outcome := group.outcome(*run, task.name))}
        for run in runs
    }
    for run in runs:
        for task in found[run].keys() - found[whole].keys():
            raise ValueError(f"{task}: {run[0]} was run but not the untouched model, '{VANILLA}': add it")
    sums = {run: {name: np.array(one.sums) for name, one in found[run].items()} for run in runs}
    complete = {run: sums[run] for run in runs if len(found[run]) == len(tasks)}
    images = {name: one.images for name, one in found[whole].items()}
    drawn = shares(tasks, complete, whole, images) if whole in complete else {}

    def against(run: tuple[str, Keep], rival: tuple[str, Keep]) -> Contrast | None:
        both = [name for name in found[run] if name in found.get(rival, {})]
        if run == rival or not both:
            return None
        ours, theirs = ([found[one][name].credit for name in both] for one in (run, rival))
        known = all(one in drawn and not isnan(drawn[one][0]) for one in (run, rival))
        gap, p = contrast([drawn[run]], [drawn[rival]]) if known else (None, 1.0)
        everywhere = [image for name in both for image in images[name]]
        return Contrast(
            group.name(rival[0]), gap, p, p,
            mcnemar(np.concatenate(ours), np.concatenate(theirs), everywhere),
            {name: mcnemar(a, b, images[name]) for name, a, b in zip(both, ours, theirs, strict=True)},
        )  # fmt: skip

    def has(run: tuple[str, Keep], fact: str) -> bool:
        return any(bool(cell.method.get(fact)) for key, cell in group.cells.items() if key[:2] == run)

    rows = []
    for run in runs:
        mine = found[run]
        counted = [(one, found[whole][name]) for name, one in mine.items() if one.ledger]
        average = float(drawn[run][0]) if run in drawn else nan
        rows.append(
            ComparisonRow(
                method=group.name(run[0]),
                keep=run[1],
                scores={name: one.score for name, one in mine.items()},
                average=None if isnan(average) else average,
                tokens=fmean(one.tokens for one, _ in counted) if counted else None,
                left=fmean(one.left for one, _ in counted) if counted else None,
                flops=fmean(100 * one.cost.prefill_flops / all.cost.prefill_flops for one, all in counted)
                if counted
                else None,
                untouched=run == whole,
                adaptive=has(run, "adaptive"),
                trained=has(run, "compressor"),
                vanilla=against(run, whole),
                reference=against(run, (reference, run[1])) if reference and run != whole else None,
            )
        )
    return rows


def _corrected(rows: Sequence[ComparisonRow]) -> list[ComparisonRow]:
    """Correct the p values of the rows for the number of tests in the table, separately for each rival."""
    vanilla = _family([row.vanilla for row in rows])
    reference = _family([row.reference for row in rows])
    return [
        replace(row, vanilla=mine, reference=other)
        for row, mine, other in zip(rows, vanilla, reference, strict=True)
    ]


def _family(contrasts: Sequence[Contrast | None]) -> list[Contrast | None]:
    """Apply Holm's correction to all tests against one rival: averages, pooled units and cells separately.

    Rows that lack a task have no average, so they add no test of averages.
    """
    made = [one for one in contrasts if one]
    averages = iter(holm([one.p for one in made if one.gap]))
    pooled = iter(holm([one.pooled.p for one in made]))
    cells = iter(holm([pairs.p for one in made for pairs in one.tasks.values()]))
    return [
        one
        and replace(
            one,
            adjusted=next(averages) if one.gap else 1.0,
            pooled=replace(one.pooled, adjusted=next(pooled)),
            tasks={name: replace(pairs, adjusted=next(cells)) for name, pairs in one.tasks.items()},
        )
        for one in contrasts
    ]


def _difficulty(group: Group, task: Task, keep: Keep, method: str) -> Difficulty | None:
    told = group.outcome(method, keep, task.name)
    if told is None:
        return None
    hard = np.array(told.credit) < 0.5
    runs = {VANILLA: group.outcome(VANILLA, group.tokens, task.name)}
    runs |= {key.method: group.outcome(*key) for key in group.cells if key[1:] == (keep, task.name)}
    scores = {
        group.name(name): float(task.value(np.array(one.sums)[hard].sum(0)))
        for name, one in runs.items()
        if one and hard.any()
    }
    return Difficulty(task.name, keep, group.name(method), int((~hard).sum()), int(hard.sum()), scores)


def hard_shares(comparison: Comparison, keep: Keep) -> dict[str, float]:
    """Return each method's mean share of vanilla's score on the hard questions over tasks, in percent.

    Tasks without hard questions, or with none that vanilla can answer, carry no information and are left out;
    so are methods that lack one of the remaining tasks.
    """
    told = [one for one in comparison.difficulty if one.keep == keep]
    found: dict[str, list[float]] = {}
    for one in told:
        whole = one.scores.get(VANILLA, 0.0)
        for name, score in one.scores.items() if whole > 0 else ():
            found.setdefault(name, []).append(float(share(score, whole)))
    most = max(map(len, found.values()), default=0)
    return {name: fmean(listed) for name, listed in found.items() if len(listed) == most}
