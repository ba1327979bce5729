"""`evocomp labels`: what label stores hold, and how their losses compare on the samples they share."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from statistics import fmean, median
from typing import TYPE_CHECKING, Any

import click

from bench.commands.common import as_json, show_json, show_table

if TYPE_CHECKING:
    from compress.labels import LabelStore


@click.command()
@click.argument("folders", nargs=-1, required=True, type=click.Path(path_type=Path))
@as_json
def labels(folders: tuple[Path, ...], machine: bool) -> None:
    """Sizes, losses and cost of label stores, and the differences from the first on common samples.

    Losses are means in nats per response token; intervals are paired 95 % bootstrap intervals of the
    difference between two stores' label losses, negative where the store is better than the first.

    \b
    Example:
      evocomp labels evolution random-search
    """
    from compress.labels import read_labels

    stores = [read_labels(folder) for folder in folders]
    rows: list[dict[str, Any]] = []
    for folder, store in zip(folders, stores, strict=True):
        against = None if store is stores[0] else difference(stores[0], store)
        rows.append({"store": str(folder), **summarise(store), "against the first": against})
    if machine:
        show_json(rows)
        return
    table = [[name, *(cell(row[name]) for row in rows)] for name in rows[0] if name != "against the first"]
    if len(rows) > 1:
        for name in ("common samples", "difference", "better on, %"):
            table.append([name, "", *(cell(row["against the first"][name]) for row in rows[1:])])
    show_table(table[0], table[1:])


def summarise(store: LabelStore) -> dict[str, Any]:
    """Counts, mean losses and cost of a label store."""

    def mean(name: str) -> float:
        return fmean(getattr(one, name) for one in store)

    return {
        "samples": len(store), "kind": store.settings["kind"], "strategy": store.settings["strategy"],
        "grouper": store.settings["grouper"], "keep": store.settings["keep"],
        "loss of a random candidate": mean("loss_before"), "loss of the label": mean("loss_after"),
        "loss of all tokens": mean("loss_full"), "evaluations per sample": mean("evaluations"),
        "median seconds per sample": median(one.seconds for one in store),
    }  # fmt: skip


def difference(first: LabelStore, second: LabelStore) -> dict[str, Any]:
    """How the labels of `second` differ in loss from those of `first`, over the samples of both."""
    import numpy as np
    from scipy.stats import bootstrap

    from bench.stats import DRAWS, Interval

    theirs = {one.id: one.loss_after for one in first}
    gaps = np.array([one.loss_after - theirs[one.id] for one in second if one.id in theirs])
    if len(gaps) < 2:
        raise ValueError(
            f"{first.folder} and {second.folder} share {len(gaps)} samples; a comparison needs two or more"
        )
    # In batches: stores of a hundred thousand labels would ask for gigabytes.
    drawn = bootstrap((gaps,), np.mean, n_resamples=DRAWS, batch=50, method="percentile", rng=0)
    low, high = drawn.confidence_interval
    return {
        "common samples": len(gaps),
        "difference": asdict(Interval(float(gaps.mean()), float(low), float(high))),
        "better on, %": 100 * float((gaps < 0).mean()),
    }


def cell(value: Any) -> str:
    """A value of `summarise` or `difference` as text."""
    if isinstance(value, dict):
        return f"{value['difference']:+.4f} [{value['low']:+.4f}, {value['high']:+.4f}]"
    if value is None:
        return "none"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


COMMANDS = {"labels": labels}
