"""`evocomp labels`: what label stores hold, how far they are, and how their losses compare."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bench.commands.instructions import file_options, samples_of
from bench.commands.options import Count, as_json
from bench.console import OutFolder, model_options, progress, say, show_json, show_table
from bench.evaluation.opening import load_model

if TYPE_CHECKING:
    from compress.labels import LabelStore
    from compress.models.loading import Anyres


@click.command()
@click.argument("folders", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--quarantine", is_flag=True, help="List the samples that were given up, with the reasons.")
@click.option(
    "--merge",
    "merged",
    type=OutFolder(locks=False),
    help="New folder for the labels of all FOLDERS as one store.",
)
@click.option(
    "--export", "exported", type=OutFolder(locks=False), help="New folder for a data set with a card."
)
@click.option(
    "--audit",
    "count",
    type=Count(2),
    help="Recompute the losses of so many labels, and those of random and DPC-KNN labels.",
)
@file_options
@model_options
@as_json
def labels(
    folders: tuple[Path, ...], quarantine: bool, merged: Path | None, exported: Path | None,
    count: int | None, data: Path | None, images: Path | None, model: str, device: str, dtype: str,
    anyres: Anyres, machine: bool,
) -> None:  # fmt: skip
    """Sizes, rates, losses and cost of label stores, and the differences from the first on common samples.

    Losses are means in nats per response token; intervals are paired 95 % bootstrap intervals of the
    difference between two stores' label losses, negative where the store is better than the first.

    \b
    Example:
      evocomp labels evolution random-search
      evocomp labels labels --audit 50
      evocomp labels part-0 part-1 --merge whole
      evocomp labels whole --export whole-on-the-hub
    """
    from compress.labels import export, merge, read_labels

    asked = {"--quarantine": quarantine, "--merge": merged, "--export": exported, "--audit": count}
    given = [option for option, value in asked.items() if value]
    if len(given) > 1:
        raise ValueError(f"{' and '.join(given)}: ask for one at a time")
    if merged is not None:
        folders = (merge(folders, merged).folder,)
    stores = [read_labels(folder) for folder in folders]
    if len(stores) > 1 and given:
        raise ValueError(f"{given[0]} is about one store: name one folder, or --merge them first")
    if exported is not None:
        say(f"{export(stores[0], exported)}: README.md is its card; read it, then upload the folder")
    if quarantine:
        _show_quarantine(stores[0], machine)
    elif count is not None:
        _show_audit(stores[0], count, data, images, (model, device, dtype, anyres), machine)
    else:
        _show(stores, machine)


def _show(stores: list[LabelStore], machine: bool) -> None:
    from bench.report.stores import difference, summarise

    rows: list[dict[str, Any]] = []
    for store in stores:
        against = None if store is stores[0] else difference(stores[0], store)
        rows.append({"store": str(store.folder), **summarise(store), "against the first": against})
    if machine:
        show_json(rows)
        return
    table = [[name, *(cell(row[name]) for row in rows)] for name in rows[0] if name != "against the first"]
    if len(rows) > 1:
        for name in ("common samples", "difference", "better on, %"):
            table.append([name, "", *(cell(row["against the first"][name]) for row in rows[1:])])
    show_table(table[0], table[1:])


def _show_quarantine(store: LabelStore, machine: bool) -> None:
    if machine:
        show_json({id: list(reasons) for id, reasons in store.quarantine.items()})
        return
    rows = [[id, "; ".join(dict.fromkeys(reasons))] for id, reasons in sorted(store.quarantine.items())]
    show_table(["sample", "reasons"], rows)
    say(f"{len(rows)} samples; try them again: evocomp label --again, as before")


def _show_audit(
    store: LabelStore,
    count: int,
    data: Path | None,
    images: Path | None,
    model: tuple[Any, ...],
    machine: bool,
) -> None:
    import numpy as np

    from bench.report.stores import compared
    from compress.labels import audit
    from compress.labels.audit import drawn

    samples = samples_of([store], drawn(store, count), data, images)
    with progress("audit") as report:
        found = audit(load_model(*model), store, samples, progress=report)
    gaps = {kind: compared(losses - found.stored) for kind, losses in found.others.items()}
    worst = float(np.abs(found.found - found.stored).max())
    if machine:
        show_json({"samples": len(found.ids), "largest error of a stored loss": worst, "against": gaps})
        return
    rows = [["stored", f"{found.stored.mean():.4f}", "", ""]]
    for kind, gap in gaps.items():
        rows.append(
            [kind, f"{found.others[kind].mean():.4f}", cell(gap["difference"]), cell(gap["better on, %"])]
        )
    show_table(["label", "loss", "difference from the stored", "better on, %"], rows)
    click.echo(f"{len(found.ids)} samples; stored losses recomputed: they differ by at most {worst:.2g}")


def cell(value: Any) -> str:
    """A value of `summarise` or `difference` as text."""
    if isinstance(value, dict):
        return f"{value['difference']:+.4f} [{value['low']:+.4f}, {value['high']:+.4f}]"
    if isinstance(value, list):
        return ", ".join(map(cell, value))
    if value is None:
        return "none"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


COMMANDS = {"labels": labels}
