"""Terminal input and output: shared options, progress on stderr, tables and JSON on stdout."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


def option(*names: str, **settings: Any) -> Callable[[F], F]:
    """`click.option` that appends the default to the help, if there is one to show."""
    if not settings.get("is_flag"):
        settings["help"] = with_default(settings["help"], settings.get("default"))
    return click.option(*names, **settings)


def with_default(text: str, default: object) -> str:
    """A help text with the default appended, if there is one."""
    if default in ("", None):
        return text
    return f"{text} Default: {f'{default:g}' if isinstance(default, float) else default}."


@contextmanager
def progress(title: str, unit: str = "samples") -> Iterator[Callable[[int, int], None]]:
    """Show progress, rate and time left on stderr, as a bar or as log lines; yields `report(done, total)`."""
    with (_bar if sys.stderr.isatty() else _lines)(title, unit) as report:
        yield report


@contextmanager
def _bar(title: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    with Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"), TimeRemainingColumn(),
        console=Console(file=sys.stderr),
    ) as bar:  # fmt: skip
        task = bar.add_task(title, total=None, rate="")

        def report(done: int, total: int) -> None:
            speed = bar.tasks[0].finished_speed or bar.tasks[0].speed
            bar.update(task, completed=done, total=total, rate=f"{speed:.1f} {unit}/s" if speed else "")

        yield report


@contextmanager
def _lines(title: str, unit: str, every: float = 10.0) -> Iterator[Callable[[int, int], None]]:
    """Print a line every `every` seconds, and one at the end unless an error ends the block."""
    started = said = time.monotonic()
    first = latest = -1
    line = ""

    def report(done: int, total: int) -> None:
        nonlocal started, said, first, latest, line
        now = time.monotonic()
        if done < latest or first < 0:  # the first report, or the first one of a new stage
            started, first = now, done
        latest, line = done, f"{title}: {done} of {total} {unit}"
        if done > first and now > started:
            speed = (done - first) / (now - started)
            line += f", {speed:.1f} {unit}/s"
            if done < total:
                line += f", {(total - done) / speed:.0f} s left"
        if now - said >= every:
            say(line)
            said = now

    yield report
    if line:
        say(line)


def say(text: str) -> None:
    """Print a line for people on stderr."""
    click.echo(text, err=True)


def renamed(old: str, new: str) -> None:
    """Print the new spelling of an option or command of an earlier release."""
    say(f"{old} is now {new}; the old spelling will be removed in the next release")


def show_table(header: Sequence[str], rows: Sequence[Sequence[str]], title: str | None = None) -> None:
    """Print a table on stdout."""
    click.echo(drawn(header, rows, title), nl=False)


def drawn(header: Sequence[str], rows: Sequence[Sequence[str]], title: str | None = None) -> str:
    """A table as text, as wide as the terminal; columns of numbers, also with marks, are right-aligned."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, box=SIMPLE_HEAD, title_justify="left")
    for place, name in enumerate(header):
        numeric = bool(rows) and all(_is_number(row[place]) for row in rows)
        table.add_column(name, justify="right" if numeric else "left", no_wrap=place == 0)
    for row in rows:
        table.add_row(*row)
    console = Console(markup=False, emoji=False, highlight=False)  # no formatting of questions and answers
    console.width = console.width if sys.stdout.isatty() else 220
    with console.capture() as text:
        console.print(table)
    return text.get()


def show_json(content: object) -> None:
    click.echo(json.dumps(content, indent=1))


def _is_number(text: str) -> bool:
    try:
        float(text.strip("% °†").replace("–", "0") or "0")
    except ValueError:
        return False
    return True


USUAL = {"--model": "micro", "--anyres": "native", "--dtype": "float32"}  # the defaults of `model_options`

anyres_option = option(
    "--anyres",
    type=click.Choice(["native", "fixed"]),
    default=USUAL["--anyres"],
    help="Crops of LLaVA-NeXT: by the image's shape (native), or always 2 x 2 without unpadding and newlines "
    "(fixed).",
)


def model_options(command: F) -> F:
    """Add --model, --anyres, --device and --dtype, the arguments of `load_model`."""
    for add in (
        option(
            "--dtype",
            type=click.Choice(["float32", "bfloat16", "float16"]),
            default=USUAL["--dtype"],
            help="Number type of the model's weights.",
        ),
        option("--device", default="cpu", help="Device of the model: cpu, cuda, cuda:1 ..."),
        anyres_option,
        option("--model", default=USUAL["--model"], help="Shipped model, folder or hub name."),
    ):
        command = add(command)
    return command


def of_model(model: str, dtype: str, anyres: str) -> str:
    """Return the options of `model_options` that name this model in the next command, with a blank before."""
    given = {"--model": model, "--anyres": anyres, "--dtype": dtype}
    return "".join(f" {option} {value}" for option, value in given.items() if value != USUAL[option])


class OutFolder(click.Path):
    """An output folder, new or existing. An unwritable folder is an error before the work starts.

    No other process may write to it until the command ends (`compress.files.locked`); with `locks` false, the
    command takes the lock itself.
    """

    def __init__(self, locks: bool = True) -> None:
        super().__init__(file_okay=False, path_type=Path)
        self.locks = locks

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        folder = Path(str(super().convert(value, param, ctx)))
        place = folder.absolute()
        there = next(one for one in (place, *place.parents) if one.exists())
        if not there.is_dir():
            self.fail(f"{there} is a file, so {folder} cannot be a folder.", param, ctx)
        if not os.access(there, os.W_OK | os.X_OK):
            self.fail(f"{there} is not writable; choose another folder.", param, ctx)
        if self.locks and ctx:
            from compress.files import locked

            # the outermost context: it is always closed
            ctx.find_root().with_resource(locked(folder))
        return folder


def whole_numbers(ctx: click.Context, parameter: click.Parameter, text: str | None) -> list[int]:
    """Callback for options such as --together 1,16; an empty list if the option was not given."""
    try:
        return [] if text is None else read_whole_numbers(text)
    except ValueError as problem:
        raise click.BadParameter(str(problem)) from problem


def read_whole_numbers(text: str) -> list[int]:
    """Whole numbers separated by commas, without duplicates; ValueError for anything else."""
    try:
        numbers = [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        numbers = []
    if not numbers:
        raise ValueError(f"'{text}': write whole numbers with commas, for instance 1,16.")
    return list(dict.fromkeys(numbers))
