"""A grid of methods, budgets and benchmarks: one row per method and budget, as the paper's tables have it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from bench.evaluate import Outcome, evaluate
from bench.ledger import Ledger, Shape
from bench.stats import Interval, interval, shares
from bench.tasks import Task
from bench.tasks.base import Sums
from compress.base import Accounting, Selector, plan
from compress.models import MLLM
from compress.samples import Sample

VANILLA = "none"
Progress = Callable[[int, int], object]  # cells done, cells in all


@dataclass(frozen=True)
class Entry:
    """One method of a comparison, and the name its rows carry."""

    name: str
    selector: Selector


@dataclass(frozen=True)
class Row:
    """One method at one budget: scores per task in percent, the mean share of vanilla, what it cost."""

    method: str
    keep: int
    scores: Mapping[str, float]
    average: float  # mean over tasks of score / vanilla score, percent
    tokens: float  # visual tokens per decoder layer, measured
    seconds: float
    versus: Mapping[str, Interval]  # gap of `average` to other methods at this budget, paired


@dataclass(frozen=True)
class Comparison:
    """All rows (vanilla first, then by budget and average), with the outcome behind every cell."""

    tasks: tuple[str, ...]
    rows: tuple[Row, ...]
    outcomes: Mapping[tuple[str, int, str], Outcome]  # (method, keep, task)
    samples: Mapping[str, Sequence[Sample]]


def compare(
    mllm: MLLM,
    entries: Sequence[Entry],
    keeps: Sequence[int],
    data: Mapping[Task, Sequence[Sample]],
    *,
    reference: str | None = None,
    batch: int = 16,
    accounting: Accounting = "average",
    progress: Progress = lambda done, total: None,
) -> Comparison:
    """Evaluate vanilla once and every entry at every budget on the same samples.

    `reference` names the entry whose paired gap to the others is computed (None: the first entry).
    ValueError, before anything is computed, without entries, budgets or tasks, and for an impossible budget.
    """
    if not entries or not keeps or not data:
        raise ValueError("nothing to compare: give at least one method, one budget and one task")
    tasks = list(data)
    outcomes: dict[tuple[str, int, str], Outcome] = {}
    tokens = mllm.visual_tokens
    for keep in keeps:
        for entry in entries:
            plan(entry.selector, tokens, keep, mllm.layers, accounting)
    cells = (1 + len(keeps) * len(entries)) * len(tasks)
    for task, samples in data.items():
        outcomes[VANILLA, tokens, task.name] = evaluate(mllm, task, samples, batch=batch)
        progress(len(outcomes), cells)
    for keep in keeps:
        for entry in entries:
            for task, samples in data.items():
                outcomes[entry.name, keep, task.name] = evaluate(
                    mllm, task, samples, entry.selector, keep, batch=batch, accounting=accounting
                )
                progress(len(outcomes), cells)
    return Comparison(
        tuple(task.name for task in tasks),
        tuple(_rows(tasks, [e.name for e in entries], keeps, tokens, data, outcomes, reference)),
        outcomes,
        {task.name: samples for task, samples in data.items()},
    )


def _rows(
    tasks: Sequence[Task], names: Sequence[str], keeps: Sequence[int], tokens: int,
    data: Mapping[Task, Sequence[Sample]], outcomes: Mapping[tuple[str, int, str], Outcome],
    reference: str | None,
) -> list[Row]:  # fmt: skip
    def statistics(name: str, keep: int) -> dict[str, Sums]:
        return {t.name: t.statistics(s, outcomes[name, keep, t.name].predictions) for t, s in data.items()}

    whole = statistics(VANILLA, tokens)
    rows = []
    for keep, name in [(tokens, VANILLA), *((keep, name) for keep in keeps for name in names)]:
        mine = [outcomes[name, keep, task.name] for task in tasks]
        drawn = shares(tasks, statistics(name, keep), whole)
        lead = reference or names[0]
        versus = {}
        if name == lead:
            rivals = [VANILLA, *(other for other in names if other != lead)]
            for other in rivals:
                theirs = shares(tasks, whole if other == VANILLA else statistics(other, keep), whole)
                versus[other] = interval(drawn, theirs)
        rows.append(
            Row(
                name, keep, {o.task: o.score for o in mine}, float(drawn[0]),
                sum(o.tokens for o in mine) / len(mine), sum(o.seconds for o in mine), versus,
            )
        )  # fmt: skip
    order = {keep: place for place, keep in enumerate([tokens, *keeps])}
    return sorted(rows, key=lambda row: (order[row.keep], -row.average))


def records(comparison: Comparison, mllm: MLLM) -> list[dict[str, object]]:
    """One record per method, budget and task: score, share of vanilla, ledger, seconds, n. Ready for JSON."""
    listed: list[dict[str, object]] = []
    shape = Shape.of(mllm.decoder.config)
    for (method, keep, task), outcome in comparison.outcomes.items():
        vanilla = comparison.outcomes[VANILLA, mllm.visual_tokens, task]
        ledger = Ledger(shape, outcome.entering, outcome.text)
        listed.append(
            {
                "method": method,
                "keep": keep,
                "task": task,
                "score": outcome.score,
                "share": 100 * outcome.score / max(vanilla.score, 1e-9),
                "n": len(outcome.predictions),
                "seconds": outcome.seconds,
                "ledger": {
                    "entering": outcome.entering,
                    "text": outcome.text,
                    "average": ledger.average,
                    "prefill_flops": ledger.flops,
                    "kv_bytes": ledger.kv_bytes(),
                },
            }
        )
    return listed
