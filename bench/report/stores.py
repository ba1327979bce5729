"""Statistics and progress of label stores, and paired differences of their losses."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from bench.evaluation.stats import mean_interval
from bench.tasks.mixture import KEY
from compress.labels import LabellingRun, LabelStore

RECORD = re.compile(r"(?P<record>(?P<file>.+)/(?P=file)-\d+)-\d+")  # key of a question of a file's record


def summarise(store: LabelStore, only: Iterable[str] | None = None) -> dict[str, Any]:
    """Counts, rate, losses and cost of a label store, or of the labels named in `only`."""
    numbers = ["loss_before", "loss_after", "loss_full", "evaluations", "seconds"]
    table = _of(store, numbers, only)
    before, after, full, evaluations, seconds = (table[name].to_numpy() for name in numbers)
    runs = store.runs()
    done, rate = len(store) + len(store.quarantine), pace(runs)
    total = max(done, sum({run.name: run.total for run in runs}.values()))
    return {
        "samples": len(table), "in quarantine": len(store.quarantine), "not done yet": total - done,
        "samples per second": rate, "hours left": (total - done) / rate / 3600 if rate else None,
        "kind": store.setting("kind"), "strategy": store.setting("strategy"),
        "grouper": store.setting("grouper"), "keep": store.setting("keep"),
        "loss of a random candidate": float(before.mean()), "loss of the label": float(after.mean()),
        "its 5th, 50th and 95th percentile": np.percentile(after, [5, 50, 95]).tolist(),
        "loss of all tokens": float(full.mean()),
        "better than a random candidate, %": 100 * float((after < before).mean()),
        "better than all tokens, %": 100 * float((after < full).mean()),
        "evaluations per sample": float(evaluations.mean()),
        "median seconds per sample": float(np.median(seconds)),
    }  # fmt: skip


def _of(store: LabelStore, columns: Sequence[str], only: Iterable[str] | None) -> pa.Table:
    table = store.table(["id", *columns])
    return table if only is None else table.filter(pc.is_in(table["id"], pa.array(only, pa.string())))


def pace(runs: list[LabellingRun]) -> float | None:
    """Samples per second while at least one run was active; None if no shard has times."""
    busy, until = 0.0, None
    for run in runs:  # in the order in which they started
        start = run.started if until is None else max(run.started, until)
        busy += max(0.0, (run.written - start).total_seconds())
        until = run.written if until is None else max(until, run.written)
    return sum(run.samples for run in runs) / busy if busy else None


def difference(first: LabelStore, second: LabelStore, only: Iterable[str] | None = None) -> dict[str, Any]:
    """Difference in loss of the labels of `second` from those of `first`, over common samples.

    With `only`, over these samples alone. Samples about one image are resampled together.
    """
    ours, theirs = (_of(store, ["loss_after"], only).to_pydict() for store in (second, first))
    before = dict(zip(theirs["id"], theirs["loss_after"], strict=True))
    common = {id: loss for id, loss in zip(ours["id"], ours["loss_after"], strict=True) if id in before}
    gaps = np.array([loss - before[id] for id, loss in common.items()])
    if len(gaps) < 2:
        raise ValueError(
            f"{first.folder} and {second.folder} share {len(gaps)} samples; a comparison needs two or more"
        )
    return compared(gaps, list(map(image_of, common)))


def image_of(key: str) -> str:
    """The scene or record that a label is about: its key without the number of the question."""
    if found := KEY.fullmatch(key):
        return key if found["turn"] is None else key[: found.start("turn") - 1]
    record = RECORD.fullmatch(key)
    return record["record"] if record else key


def compared(gaps: NDArray[np.float64], images: Sequence[str]) -> dict[str, Any]:
    """Mean of paired differences with its interval over the pairs' images, and the share below zero."""
    return {
        "common samples": len(gaps),
        "difference": asdict(mean_interval(gaps, images)),
        "better on, %": 100 * float((gaps < 0).mean()),
    }
