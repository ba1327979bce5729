"""`evocomp`, the command line: commands parse, call one library function and print; imported when used."""

from __future__ import annotations

import errno
import os
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import click

COMMANDS = {
    "demo": ("demo", "The whole idea in minutes: search, train, compare, report."),
    "ask": ("ask", "Ask one question about an image; draw the tokens that were kept."),
    "search": ("search", "Search the best tokens for one sample; trace and picture."),
    "label": ("label", "Search a data set: write a label store (resumable)."),
    "labels": ("labels", "Compare label stores: losses, cost, paired differences."),
    "train": ("train", "Train a compressor on a label store (resumable)."),
    "eval": ("evaluate", "Score one method on benchmarks."),
    "compare": ("compare", "Score methods side by side at equal budgets (resumable)."),
    "run": ("run", "Make a table or figure of the paper, step by step (resumable)."),
    "table": ("table", "Put finished comparisons into one table."),
    "bench": ("bench", "Time compression: every stage of an answer here, or the phone protocol."),
    "report": ("report", "Make one page, text or document of finished comparisons."),
    "draw": ("draw", "Draw groups, kept tokens, searches and trainings for a paper."),
    "app": ("app", "Try methods on images of your own in the browser."),
    "data": ("data", "Write benchmarks in official formats; make and check files of training questions."),
    "doctor": ("doctor", "Check the installation, or a folder of benchmarks."),
    "verify": ("verify", "Check every method against its official implementation."),
    "methods": ("lists", "List the compression methods."),
    "models": ("lists", "List the shipped models."),
    "tasks": ("lists", "List the benchmarks."),
    "recipes": ("run", "List the tables and figures that can be run."),
    "groupers": ("lists", "List the ways to group visual tokens."),
    "strategies": ("lists", "List the search strategies."),
    "kinds": ("lists", "List the kinds of labels."),
    "losses": ("lists", "List the training losses."),
}
# What a user can cause; anything else is ours and shows its trace.
EXPECTED = (ValueError, OSError, FloatingPointError)


class Problem(click.ClickException):
    """A user's mistake: one line on stderr, exit status 2."""

    exit_code = 2

    def show(self, file: Any = None) -> None:
        click.echo(f"evocomp: {self.message}", err=True)


class Interrupted(Problem):
    """Ctrl-C, with the exit status that shells expect of it."""

    exit_code = 130


@contextmanager
def one_line() -> Iterator[None]:
    """Turn what a user can cause into a `Problem`."""
    try:
        yield
    except (click.exceptions.NoArgsIsHelpError, BrokenPipeError):
        raise  # click answers these: with the help, and with silence
    except click.UsageError as problem:
        path = problem.ctx.command_path if problem.ctx else "evocomp"
        raise Problem(f"{problem.format_message()} See {path} --help") from problem
    except KeyboardInterrupt as stop:
        raise Interrupted(
            "interrupted; label, train, run and compare --out go on where they stopped when run again"
        ) from stop
    except EXPECTED as problem:
        if os.environ.get("EVOCOMP_DEBUG"):
            raise
        raise Problem(_words(problem)) from problem


def _words(problem: Exception) -> str:
    text = " ".join(str(problem).split()) or type(problem).__name__
    if isinstance(problem, OSError) and problem.strerror:
        text = f"{problem.filename}: {problem.strerror}" if problem.filename else problem.strerror
    if isinstance(problem, OSError) and problem.errno in (errno.ENOSPC, errno.EDQUOT):
        text += "; free some space and run the same command again"
    return text


class Commands(click.Group):
    """Lists commands without importing them, and turns expected errors into one line.

    `table`: name -> its module in bench.commands, and a line of help.
    """

    def __init__(self, *args: Any, table: Mapping[str, tuple[str, str]], **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.table = table

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.table)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in self.table:
            return None
        module = import_module(f"bench.commands.{self.table[name][0]}")
        command: click.Command = module.COMMANDS[name]
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in self.table:
            from evosearch.registry import unknown

            raise Problem(unknown("command", args[0], self.table))
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, help) for name, (_, help) in self.table.items()])

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if ctx.parent is None:
            ctx.obj = shlex.join(["evocomp", *args])  # for reports: the command that made them
        with one_line():
            return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        with one_line():
            return super().invoke(ctx)


SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 110}


@click.group("evocomp", cls=Commands, table=COMMANDS, context_settings=SETTINGS)
@click.version_option(package_name="evocomp")
def main() -> None:
    """Visual-token compression for multimodal LLMs: search, learn, compare, measure.

    Everything runs offline on the shipped micro model; --model takes a folder or a hub name. Tables go to
    stdout, progress to stderr. EVOCOMP_DEBUG=1 shows the trace of an error.

    \b
    Example:
      evocomp demo --out demo
    """


if __name__ == "__main__":
    main()
