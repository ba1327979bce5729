"""What people see in a terminal: progress on stderr, tables and JSON on stdout."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import click


@contextmanager
def progress(title: str, unit: str = "samples") -> Iterator[Callable[[int, int], None]]:
    """Done, rate and time left on stderr, as a bar or, in a log, as lines; yields `report(done, total)`."""
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
    """A line every so many seconds, and one at the end unless it ends in an error."""
    started = said = time.monotonic()
    first = latest = -1
    line = ""

    def report(done: int, total: int) -> None:
        nonlocal started, said, first, latest, line
        now = time.monotonic()
        if done < latest or first < 0:  # the first report, or of another stage
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
    """A line for people, on stderr."""
    click.echo(text, err=True)


def show_table(header: Sequence[str], rows: Sequence[Sequence[str]], title: str | None = None) -> None:
    """A table on stdout; numbers align right, with marks or without."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, box=SIMPLE_HEAD, title_justify="left")
    for place, name in enumerate(header):
        numeric = bool(rows) and all(_is_number(row[place]) for row in rows)
        table.add_column(name, justify="right" if numeric else "left", no_wrap=place == 0)
    for row in rows:
        table.add_row(*row)
    console = Console(markup=False, emoji=False, highlight=False)  # questions and answers stay as they are
    console.width = console.width if sys.stdout.isatty() else 220
    console.print(table)


def show_json(content: object) -> None:
    click.echo(json.dumps(content, indent=1))


def _is_number(text: str) -> bool:
    try:
        float(text.strip("% °†").replace("–", "0") or "0")
    except ValueError:
        return False
    return True
