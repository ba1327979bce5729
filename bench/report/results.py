"""The results of a comparison, ready for JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from itertools import product
from math import isnan

from bench.evaluation.comparison import Comparison, ComparisonRow, Contrast
from bench.evaluation.stats import share
from bench.report.table import notes


def results(comparison: Comparison, facts: Mapping[str, str]) -> dict[str, object]:
    """The results of a comparison, ready for JSON."""
    return {
        "facts": dict(facts),
        "match": comparison.match,
        "reference": comparison.reference,
        "margin": comparison.margin,
        "mixed": list(comparison.mixed),
        "notes": notes(comparison),
        "methods": {name: dict(facts) for name, facts in comparison.methods.items()},
        "rows": records(comparison),
        "summary": [summary(row, comparison.margin) for row in comparison.rows],
        "difficulty": [asdict(one) for one in comparison.difficulty],
        "impossible": [
            {"method": method, "keep": keep, "task": task, "why": why}
            for (method, keep, task), why in comparison.impossible.items()
        ],
    }


def summary(row: ComparisonRow, margin: float) -> dict[str, object]:
    """A row of the table, ready for JSON."""
    told = asdict(row)
    for rival, contrast in (("vanilla", row.vanilla), ("reference", row.reference)):
        if contrast:
            told[rival]["significant"] = contrast.significant
            told[rival]["equivalent"] = contrast.gap is not None and contrast.gap.within(margin)
    return told


def records(comparison: Comparison) -> list[dict[str, object]]:
    """One record per method, budget and task: score, share, tests, ledger, n. Ready for JSON."""
    whole = {row.method: row.keep for row in comparison.rows if row.untouched}
    hard = {(one.keep, one.task): one for one in comparison.difficulty}
    listed: list[dict[str, object]] = []
    for row, task in product(comparison.rows, comparison.tasks):
        outcome = comparison.outcomes.get((row.method, row.keep, task))
        if outcome is None:
            continue
        ledger, beyond = outcome.ledger, hard.get((row.keep, task))
        vanilla = row.vanilla.rival if row.vanilla else row.method
        untouched = comparison.outcomes[vanilla, whole[vanilla], task]
        fraction = float(share(outcome.score, untouched.score))
        listed.append(
            {
                "method": row.method,
                "keep": row.keep,
                "task": task,
                "score": outcome.score,
                "share": None if isnan(fraction) else fraction,
                "n": len(outcome.predictions),
                "units": len(outcome.credit),
                "images": len(set(outcome.images)),
                "draws": list(outcome.draws),
                "metric": comparison.metrics.get(task),
                "subscores": dict(outcome.subscores),
                "batch": outcome.batch,
                "adaptive": row.adaptive,
                "against": [_told(one, task) for one in (row.vanilla, row.reference) if one],
                "easy": beyond.easy if beyond else None,
                "hard": beyond.hard if beyond else None,
                "score on hard": beyond.scores.get(row.method) if beyond else None,
                "ledger": ledger
                and {
                    "entering": list(ledger.entering),
                    "leaving": list(ledger.leaving),
                    "cached": list(ledger.in_cache),
                    "stages": list(outcome.stages),
                    "text": ledger.text,
                    "left": outcome.left,
                    "average": ledger.average,
                    "average_leaving": ledger.average_leaving,
                    "selection_flops": ledger.selection,
                    "prefill_flops": ledger.prefill_flops,
                    "decode_flops": ledger.decode_flops(),
                    "kv_bytes": ledger.kv_bytes(),
                },
            }
        )
    return listed


def _told(contrast: Contrast, task: str) -> dict[str, object]:
    pairs = contrast.tasks[task]
    return {"rival": contrast.rival, **asdict(pairs), "significant": pairs.significant}
