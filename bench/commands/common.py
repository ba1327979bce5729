"""What commands share: options, progress on stderr, tables on stdout."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from PIL.Image import Image

    from bench.compare import Comparison
    from compress.models import MLLM

F = TypeVar("F", bound=Callable[..., Any])


def model_options(command: F) -> F:
    """--model, --device and --dtype."""
    for option in (
        click.option(
            "--dtype",
            type=click.Choice(["float32", "bfloat16", "float16"]),
            default="float32",
            show_default=True,
        ),
        click.option(
            "--device", default="cpu", show_default=True, help="Where the model runs: cpu, cuda, cuda:1 ..."
        ),
        click.option(
            "--model", default="micro", show_default=True, help="A shipped model, a folder or a hub name."
        ),
    ):
        command = option(command)
    return command


def as_json(command: F) -> F:
    return click.option("--json", "machine", is_flag=True, help="Print JSON instead of a table.")(command)


def load_model(model: str, device: str, dtype: str) -> MLLM:
    """The model that the options name; transformers keeps quiet from here on."""
    import torch

    from compress.models import load, quiet

    quiet()
    return load(model, device=device, dtype=getattr(torch, dtype))


def open_image(name: str) -> Image:
    """An image file, or `micro:SEED` for a scene of the micro world; ValueError that says what is wrong."""
    from PIL import Image, UnidentifiedImageError

    if name.startswith("micro:"):
        from compress.micro.world import render, scene

        seed = name.removeprefix("micro:")
        if not seed.isdecimal():
            raise ValueError(f"'{name}': write micro:SEED with a whole number, for instance micro:7")
        return render(scene("test", int(seed)))
    if not Path(name).is_file():
        raise ValueError(f"there is no image at {name}: give an image file, or micro:SEED for a made scene")
    try:
        with Image.open(name) as picture:
            return picture.convert("RGB")
    except (UnidentifiedImageError, OSError, SyntaxError) as problem:
        raise ValueError(
            f"{name} cannot be read as an image ({problem}): give a PNG, JPEG or WebP file"
        ) from problem


def whole_numbers(ctx: click.Context, parameter: click.Parameter, text: str) -> list[int]:
    """Callback for options such as --keep 48,32,16."""
    try:
        numbers = [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        numbers = []
    if not numbers:
        raise click.BadParameter(f"'{text}': write whole numbers with commas, for instance 48,32,16")
    return numbers


def names(text: str, known: Sequence[str]) -> list[str]:
    """Comma-separated names, or all of `known` for "all"."""
    return list(known) if text == "all" else [part.strip() for part in text.split(",") if part.strip()]


@contextmanager
def progress(title: str, unit: str = "samples") -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr with rate and time left; yields `report(done, total)`."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    with Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"), TimeRemainingColumn(),
        console=Console(file=sys.stderr), transient=not sys.stderr.isatty(),
    ) as bar:  # fmt: skip
        task = bar.add_task(title, total=None, rate="")

        def report(done: int, total: int) -> None:
            speed = bar.tasks[0].finished_speed or bar.tasks[0].speed
            bar.update(task, completed=done, total=total, rate=f"{speed:.1f} {unit}/s" if speed else "")

        yield report


def say(text: str) -> None:
    """A line for people, on stderr."""
    click.echo(text, err=True)


def show_table(header: Sequence[str], rows: Sequence[Sequence[str]], title: str | None = None) -> None:
    """A table on stdout; numbers align right."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, box=SIMPLE_HEAD, title_justify="left")
    for place, name in enumerate(header):
        numeric = bool(rows) and all(_is_number(row[place]) for row in rows)
        table.add_column(name, justify="right" if numeric else "left", no_wrap=place == 0)
    for row in rows:
        table.add_row(*row)
    console = Console()
    console.width = console.width if sys.stdout.isatty() else 200
    console.print(table)


def show_comparison(comparison: Comparison) -> None:
    """The table of a comparison on stdout, with a sentence per budget."""
    from bench.table import header, headlines, table_rows

    show_table(header(comparison), table_rows(comparison))
    for line in headlines(comparison):
        click.echo(line)


def show_json(content: object) -> None:
    click.echo(json.dumps(content, indent=1))


def _is_number(text: str) -> bool:
    try:
        float(text.strip("% ") or "0")
    except ValueError:
        return False
    return True
