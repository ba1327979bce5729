"""The command line `evocomp`: each command parses, calls one library function and prints; imported on use."""

from __future__ import annotations

import errno
import shlex
import sys
import tempfile
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import click

from bench.console import renamed

CommandTable = Mapping[str, tuple[str, str]]  # command -> its module in bench.commands and a line of help
GROUPS: dict[str, CommandTable] = {
    "Search and train": {
        "demo": ("demo", "Search, train and compare on the shipped model in a few minutes."),
        "search": ("search", "Search for the best tokens of one sample."),
        "label": ("label", "Search for the tokens to keep of many samples, and store them as labels."),
        "labels": ("labels", "Show, audit, merge and export label stores."),
        "train": ("train", "Train a compressor on label stores."),
    },
    "Evaluate and compare": {
        "eval": ("evaluate", "Score one method on benchmarks."),
        "compare": ("compare", "Score several methods side by side at equal budgets."),
        "report": ("report", "Show finished comparisons as a table, a page or a file."),
        "card": ("card", "Describe on one page how a comparison was measured."),
        "run": ("run", "Make a table or figure of the paper from its recipe."),
    },
    "Measure speed": {
        "bench": ("bench", "Time methods, and measure how far their choice depends on the question."),
    },
    "Look": {
        "ask": ("ask", "Ask one question about an image and draw the kept tokens."),
        "draw": ("draw", "Draw kept tokens, groups, searches and trainings for a paper."),
        "app": ("app", "Try methods on your own images in the browser."),
        "list": ("lists", "List methods, models, tasks, recipes and other names."),
    },
    "Set up": {
        "data": ("data", "Write benchmarks and training questions to files, and check them."),
        "doctor": ("doctor", "Check the installation or a folder of benchmarks."),
        "verify": ("verify", "Check every method against its official implementation."),
    },
}  # fmt: skip
COMMANDS: CommandTable = {name: entry for table in GROUPS.values() for name, entry in table.items()}
LISTS = ("methods", "models", "tasks", "groupers", "strategies", "kinds", "losses", "recipes")
# Spellings of earlier releases. They still work, and print the new spelling.
FORMER = {name: ("list", name) for name in LISTS} | {"table": ("report", "--format", "table")}
# Errors that a user can cause. Any other error is internal, and its trace is written to a file.
EXPECTED = (ValueError, OSError, FloatingPointError)
LONGEST = 1000  # characters of a message


class UserError(click.ClickException):
    """A user's mistake: prints the trace if requested, then one line on stderr; exit status 2."""

    exit_code = 2

    def __init__(self, message: str, trace: str = ""):
        super().__init__(message)
        self.trace = trace

    def show(self, file: Any = None) -> None:
        from evosearch.registry import cut

        click.echo(f"{self.trace}evocomp: {cut(self.message, LONGEST)}", err=True)


class InterruptError(UserError):
    """Ctrl-C, with the exit status that shells expect for it."""

    exit_code = 130


class InternalError(UserError):
    """An error of evocomp itself, with an exit status of its own."""

    exit_code = 1


@contextmanager
def one_line() -> Iterator[None]:
    """Turn every exception into a `UserError`."""
    try:
        yield
    except (click.exceptions.NoArgsIsHelpError, click.exceptions.Exit, click.Abort, BrokenPipeError):
        raise  # click handles these: it prints the help, or nothing
    except click.UsageError as problem:
        path = problem.ctx.command_path if problem.ctx else "evocomp"
        raise UserError(f"{problem.format_message()} See {path} --help") from problem
    except click.ClickException:
        raise
    except KeyboardInterrupt as stop:
        raise InterruptError("interrupted; run label, train, run or compare --out again to resume") from stop
    except Exception as problem:
        if isinstance(problem, EXPECTED) or _ran_out(problem) or _broken_library(problem):
            raise UserError(_words(problem), _wanted_trace(problem)) from problem
        raise InternalError(_of_ours(problem), _wanted_trace(problem)) from problem


def _wanted_trace(problem: Exception) -> str:
    """The trace of an exception if --traceback is set; otherwise empty."""
    ctx = click.get_current_context(silent=True)
    wanted = ctx is not None and ctx.find_root().params.get("trace")
    return "".join(traceback.format_exception(problem)) if wanted else ""


def _words(problem: Exception) -> str:
    text = str(problem)
    if _ran_out(problem):
        text = "out of memory: use fewer samples at a time or a smaller model"
    if isinstance(problem, ImportError):
        cause = _first_cause(problem)
        text = f"a library cannot be imported ({cause}): run evocomp doctor to find out what to repair"
    if isinstance(problem, OSError) and problem.strerror:
        text = f"{problem.filename}: {problem.strerror}" if problem.filename else problem.strerror
    if isinstance(problem, OSError) and problem.errno in (errno.ENOSPC, errno.EDQUOT):
        text += "; free some space and run the same command again"
    return text or type(problem).__name__


def _ran_out(problem: Exception) -> bool:
    if "torch" not in sys.modules:
        return isinstance(problem, MemoryError)
    from compress.memory import ran_out

    return ran_out(problem)


def _broken_library(problem: Exception) -> bool:
    """Whether a library cannot be imported; False if a module of evocomp is missing."""
    own = ("bench", "baselines", "compress", "evosearch")
    return isinstance(problem, ImportError) and (problem.name or "").partition(".")[0] not in own


def _first_cause(problem: BaseException) -> str:
    """The message of the innermost exception."""
    while earlier := problem.__cause__ or problem.__context__:
        problem = earlier
    return str(problem)


def _of_ours(problem: Exception) -> str:
    """The message for an unexpected error; it gives the path of a file with the traceback."""
    ctx = click.get_current_context(silent=True)
    command = ctx.find_root().obj if ctx else "evocomp"
    said = f"internal error ({type(problem).__name__}: {problem})"
    try:
        handle, path = tempfile.mkstemp(".txt", "evocomp-")
        with open(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(f"{command}\n\n{''.join(traceback.format_exception(problem))}")
    except OSError as full:
        return (
            f"{said}; its traceback could not be written ({full.strerror}): run the command again with "
            f"--traceback"
        )
    return f"{said}; please report it with the traceback in {path}"


class Commands(click.Group):
    """Lists commands without importing them, and turns expected errors into one line.

    `groups`: headings of the help, each with its commands. `former`: old names, each with the words that
    replace it.
    """

    def __init__(
        self, *args: Any, groups: Mapping[str, CommandTable],
        former: Mapping[str, Sequence[str]] | None = None,
        **kwargs: Any,
    ):  # fmt: skip
        super().__init__(*args, **kwargs)
        self.groups = groups
        self.former = former or {}
        self.table = {name: entry for table in groups.values() for name, entry in table.items()}

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
        if args and args[0] in self.former:
            new = self.former[args[0]]
            renamed(f"{ctx.command_path} {args[0]}", shlex.join([ctx.command_path, *new]))
            args = [*new, *args[1:]]
            ctx.obj = shlex.join([ctx.command_path, *args])
        if args and args[0] not in self.table:
            from evosearch.registry import unknown

            raise UserError(unknown("command", args[0], self.table))
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        width = max(map(len, self.table))
        for heading, table in self.groups.items():
            with formatter.section(heading):
                formatter.write_dl([(name.ljust(width), line) for name, (_, line) in table.items()])

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if ctx.parent is None:
            ctx.obj = shlex.join(["evocomp", *args])  # for reports: the command that made them
        with one_line():
            return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        with one_line():
            return super().invoke(ctx)


SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 110}


@click.group("evocomp", cls=Commands, groups=GROUPS, former=FORMER, context_settings=SETTINGS)
@click.version_option(package_name="evocomp")
@click.option(
    "--traceback", "trace", is_flag=True, envvar="EVOCOMP_TRACEBACK",
    help="Show the Python traceback of an error, as EVOCOMP_TRACEBACK=1 does.",
)  # fmt: skip
def main(trace: bool) -> None:
    """Visual-token compression for multimodal LLMs: search, train, compare, measure.

    Every command runs offline on the shipped micro model; --model takes a folder or a hub name. Tables go to
    stdout and progress to stderr. Exit status: 0 for success, 2 for an error in the call, a file or the
    installation, 130 after an interruption, 1 for an internal error of evocomp.

    \b
    Example:
      evocomp demo --out demo
    """
