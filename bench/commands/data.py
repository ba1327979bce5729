"""`evocomp data`: the miniature benchmarks as files, and files of training questions."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from bench.commands.options import PROCESSES, Count, as_json
from bench.console import OutFolder, option, progress, say, show_json, show_table
from evosearch.registry import names


@click.group()
def data() -> None:
    """Write benchmarks and training questions to files, and check them.

    \b
    Example:
      evocomp data export --out benchmarks -n 40 --format lmms-lab
    """


@data.command()
@option("--out", required=True, type=OutFolder(), help="Folder to write the benchmarks to.")
@option("--tasks", default="all", help="Tasks, separated by commas (evocomp list tasks).")
@option("-n", "count", default=200, type=Count(1), help="Questions per task.")
@option(
    "--format",
    "layout",
    type=click.Choice(["official", "lmms-lab"]),
    default="official",
    help="Layout of the files.",
)
@option("--split", type=click.Choice(["test", "val"]), default="test", help="Split to write.")
@as_json
def export(
    out: Path, tasks: str, count: int, layout: Literal["official", "lmms-lab"], split: str, machine: bool
) -> None:  # fmt: skip
    """Write the miniature benchmarks in the file formats of the original ones.

    \b
    Example:
      evocomp data export --out benchmarks -n 40 --format lmms-lab
    """
    from bench.data.export import export as run
    from bench.tasks import TASKS

    sizes = run(
        out,
        names(tasks, "--tasks", [name for name, task in TASKS.items() if task.splits]),
        count,
        layout,
        split,
    )
    if machine:
        show_json(sizes)
        return
    show_table(["task/split", "samples"], [[name, str(size)] for name, size in sizes.items()])
    say(f"read them: evocomp eval --data {out}")


@data.command()
@click.argument("source")
@option("--from", "folder", type=click.Path(path_type=Path), help="Folder of the source's official files.")
@option("--out", required=True, type=click.Path(dir_okay=False, path_type=Path), help="JSON file to write.")
@option("--images", type=OutFolder(), help="For micro: folder to write the images to.")
@option("-n", "count", default=200, type=Count(1), help="For micro: number of questions.")
def records(source: str, folder: Path | None, out: Path, images: Path | None, count: int) -> None:
    """Write the training questions of SOURCE in the format of LLaVA's mixture.

    SOURCE is gqa, vqav2, okvqa, aokvqa, ocrvqa, textvqa or scienceqa, with its official files in --from, or
    micro, whose images are generated. Image names follow LLaVA's image root (docs/labelling.md).

    \b
    Example:
      evocomp data records micro --out micro.json --images images
    """
    from bench.data.records import write
    from bench.data.sources import SOURCES, micro, read_source
    from evosearch.registry import unknown

    OutFolder().convert(out.parent, None, None)
    if source not in (*SOURCES, "micro"):
        raise ValueError(unknown("source", source, [*SOURCES, "micro"]))
    if source == "micro":
        if images is None:
            raise ValueError("micro needs --images: give a folder for the generated images")
        made = micro(count, images)
    elif folder is None:
        raise ValueError(f"{source} needs --from: give the folder with its official files")
    else:
        made = read_source(source, folder)
    out.parent.mkdir(parents=True, exist_ok=True)
    say(f"{write(out, made)} records; label them: evocomp label --data {out} --images DIR --out labels")


@data.command()
@click.argument("file", type=click.Path(path_type=Path))
@option(
    "--images",
    required=True,
    type=click.Path(path_type=Path),
    help="Folder that image names are relative to.",
)
@option(
    "--out", required=True, type=click.Path(dir_okay=False, path_type=Path), help="Manifest file to write."
)
@option(
    "--rules",
    type=click.Path(path_type=Path),
    help="YAML file with the rules that assign records to sources. Default: the rules for LLaVA's mixture.",
)
@option("--workers", default=1, type=Count(1, PROCESSES), help="Number of processes.")
@as_json
def check(
    file: Path, images: Path, out: Path, rules: Path | None, workers: int, machine: bool
) -> None:  # fmt: skip
    """Open every image of FILE, a mixture such as mix665k, and write a manifest of the usable records.

    Check a file before a long run: `evocomp label --manifest` then starts at once, with usable records only.

    \b
    Example:
      evocomp data check micro.json --images images --out micro.manifest
    """
    from bench.commands.instructions import show_left_out
    from bench.data.instructions import Index, read_rules

    if not images.is_dir():
        raise ValueError(f"there is no folder {images}: give the folder that image names are relative to")
    OutFolder().convert(out.parent, None, None)
    found = Index.of(file, read_rules(rules) if rules else None)
    with progress("check", "pictures") as report:
        found = found.checked(images, workers=workers, progress=report)
    out.parent.mkdir(parents=True, exist_ok=True)
    found.save(out)
    if machine:
        left_out = {reason: vars(one) for reason, one in found.left_out.items()}
        show_json({"records": found.table.num_rows, "sources": found.counts, "left out": left_out})
        return
    show_table(["source", "records"], [[name, str(size)] for name, size in found.counts.items()])
    show_left_out(found)
    say(f"label them: evocomp label --data {file} --images {images} --manifest {out} --out labels")


COMMANDS = {"data": data}
