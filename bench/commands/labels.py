"""`evocomp labels`: operations on label stores."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bench.commands.instructions import file_options, samples_of
from bench.commands.options import Count, as_json
from bench.console import OutFolder, model_options, option, progress, renamed, say, show_json, show_table
from bench.evaluation.opening import load_model
from evosearch.registry import unknown

if TYPE_CHECKING:
    from compress.labels import LabelStore
    from compress.models.loading import Anyres


# Options of earlier releases, which had a single command -> the present command and its option.
FORMER = {
    "--quarantine": ("quarantine", None),
    "--audit": ("audit", "--samples"),
    "--merge": ("merge", "--out"),
    "--export": ("export", "--out"),
}  # fmt: skip


class Stores(click.Group):
    """Also accepts the spelling of earlier releases, such as `evocomp labels FOLDERS --merge NEW`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in {*self.commands, *ctx.help_option_names}:
            if not args[0].startswith("-") and not Path(args[0]).exists():
                raise ValueError(unknown("command", args[0], self.commands))
            args = by_command(args)
            renamed("evocomp labels FOLDERS", f"evocomp labels {args[0]} FOLDERS")
        return super().parse_args(ctx, args)


def by_command(args: Sequence[str]) -> list[str]:
    """The arguments of an earlier release, with their command in front."""
    given = [option for option in FORMER if any(part.partition("=")[0] == option for part in args)]
    if len(given) > 1:
        raise ValueError(f"{' and '.join(given)}: use one at a time")
    if not given:
        return ["show", *args]
    (old,) = given
    command, new = FORMER[old]
    if new is None:
        return [command, *(part for part in args if part != old)]
    return [command, *(new + part[len(old) :] if part.partition("=")[0] == old else part for part in args)]


@click.group(cls=Stores)
def labels() -> None:
    """Show, audit, merge and export label stores, the folders that `evocomp label` writes.

    \b
    Example:
      evocomp labels show labels
    """


@labels.command()
@click.argument("folders", nargs=-1, required=True, type=click.Path(path_type=Path))
@as_json
def show(folders: tuple[Path, ...], machine: bool) -> None:
    """Show sizes, rates, losses and cost of label stores, and paired differences from the first store.

    Losses are means in nats per response token. Differences are computed on common samples, with paired 95 %
    bootstrap intervals over images; a negative difference means that the store is better than the first.

    \b
    Example:
      evocomp labels show labels
    """
    from compress.labels import read_labels

    _show([read_labels(folder) for folder in folders], machine)


@labels.command()
@click.argument("folder", type=click.Path(path_type=Path))
@as_json
def quarantine(folder: Path, machine: bool) -> None:
    """List the samples that could not be labelled, with the reasons.

    \b
    Example:
      evocomp labels quarantine labels
    """
    from compress.labels import read_labels

    store = read_labels(folder)
    if machine:
        show_json({id: list(reasons) for id, reasons in store.quarantine.items()})
        return
    rows = [[id, "; ".join(dict.fromkeys(reasons))] for id, reasons in sorted(store.quarantine.items())]
    show_table(["sample", "reasons"], rows)
    say(f"{len(rows)} samples; to try them again, add --again to the evocomp label command")


@labels.command()
@click.argument("folders", nargs=-1, required=True, type=click.Path(path_type=Path))
@option("--out", required=True, type=OutFolder(locks=False), help="New folder of the merged store.")
@as_json
def merge(folders: tuple[Path, ...], out: Path, machine: bool) -> None:
    """Merge label stores into one; equal labels are kept once, contradicting ones are refused.

    \b
    Example:
      evocomp labels merge part-0 part-1 --out whole
    """
    from compress.labels import merge as run

    _show([run(folders, out)], machine)


@labels.command()
@click.argument("folder", type=click.Path(path_type=Path))
@option("--out", required=True, type=OutFolder(locks=False), help="New folder of the data set.")
@as_json
def export(folder: Path, out: Path, machine: bool) -> None:
    """Export a label store as a data set with a card, ready for the Hugging Face Hub.

    \b
    Example:
      evocomp labels export labels --out dataset
    """
    from compress.labels import export as run
    from compress.labels import read_labels

    store = read_labels(folder)
    say(f"{run(store, out)}: README.md is its card; read it, then upload the folder")
    _show([store], machine)


@labels.command()
@click.argument("folder", type=click.Path(path_type=Path))
@option("--samples", "count", default=50, type=Count(2), help="Number of labels to recompute.")
@file_options
@model_options
@as_json
def audit(
    folder: Path, count: int, data: Path | None, images: Path | None, model: str, device: str, dtype: str,
    anyres: Anyres, machine: bool,
) -> None:  # fmt: skip
    """Recompute the losses of some labels, and compare them with those of random and DPC-KNN labels.

    \b
    Example:
      evocomp labels audit labels --samples 50
    """
    import numpy as np

    from bench.report.stores import compared
    from compress.labels import audit as run
    from compress.labels import read_labels
    from compress.labels.audit import drawn

    store = read_labels(folder)
    samples = samples_of([store], drawn(store, count), data, images)
    with progress("audit") as report:
        found = run(load_model(model, device, dtype, anyres), store, samples, progress=report)
    pictures = [one.picture_digest for one in samples]
    gaps = {kind: compared(losses - found.stored, pictures) for kind, losses in found.others.items()}
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
    click.echo(f"{len(found.ids)} samples; recomputed losses differ from stored ones by at most {worst:.2g}")


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
