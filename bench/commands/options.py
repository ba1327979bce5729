"""Options that several commands share, and the types of their values."""

from __future__ import annotations

from collections.abc import Callable
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bench.console import F, OutFolder
from evosearch.registry import cut

if TYPE_CHECKING:
    from compress.keep import Keep


MOST = 10**9  # of samples, tokens, rounds and the like
PROCESSES = 1024  # or threads, at most
SEED = click.IntRange(0, 2**63 - 1)
BUDGET = "a budget is a count of visual tokens from 1, or a ratio of each image's, as 11.1% or 1/9"


def data_options(command: F) -> F:
    """--tasks, -n, --data, --protocol and --split: what `open_tasks` takes."""
    for option in (
        click.option(
            "--split", help="test or val of the miniatures, or a split of --data (first of its kind)."
        ),
        click.option(
            "--protocol", help="Prompts and matching with --data: llava (default) or lmms-eval, never mixed."
        ),
        click.option(
            "--data",
            help="Folder of benchmarks (docs/benchmarks.md) or hub:OWNER; the miniatures without it.",
        ),
        click.option("-n", "count", type=Count(1), help="Questions per task. Default: 400, with --data all."),
        click.option(
            "--tasks",
            default="all",
            show_default=True,
            help="NAME[:option=value] with commas (evocomp list tasks).",
        ),
    ):
        command = option(command)
    return command


def margin_option(default: float | None = 2.0) -> Callable[[F], F]:
    """--margin, by default that of the runs at hand where there is none."""
    return click.option(
        "--margin", type=Amount(0, min_open=True), default=default,
        help="Points within which the whole 95 % interval of an average must lie to be marked as equivalent. "
        f"Default: {'that of the first run' if default is None else f'{default:g}'}.",
    )  # fmt: skip


def match_option(command: F) -> F:
    """--match."""
    return click.option(
        "--match",
        type=click.Choice(["tokens", "equivalent", "flops"]),
        default="equivalent",
        show_default=True,
        help="What budgets equal: tokens after the last stage, their mean over layers, or prefill FLOPs.",
    )(command)


class Count(click.IntRange):
    """A whole number from `least` to `most`."""

    def __init__(self, least: int, most: int = MOST):
        super().__init__(least, most)


class Amount(click.FloatRange):
    """A finite number in a range."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number = float(super().convert(value, param, ctx))
        if not isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


class Budget(click.ParamType):
    """A count of visual tokens, or a ratio of each image's."""

    name = "N or RATIO"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Keep:
        from compress.keep import read_keep

        try:
            return read_keep(value)
        except ValueError:
            self.fail(f"'{value}': {BUDGET}.", param, ctx)


def keep_option(about: str, default: str = "1/9") -> Callable[[F], F]:
    """--keep with one budget, which `budget` checks against a model."""
    return click.option(
        "--keep", type=Budget(), help=f"{about}: a count, or a ratio of the image's own tokens (11.1%, 1/9). "
        f"Default: {default}.",
    )  # fmt: skip


def keeps_option(default: str) -> Callable[[F], F]:
    """--keep with several budgets."""
    return click.option(
        "--keep", "keeps", default=default, callback=budgets,
        help="Budgets with commas: counts, or ratios of each image's visual tokens (11.1%, 1/9). "
        f"Default: {default}.",
    )  # fmt: skip


class BatchSize(click.ParamType):
    """A whole number from 1, or None for auto."""

    name = "INTEGER or auto"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | None:
        if value is None or value == "auto":
            return None
        if not str(value).isdecimal() or not int(value):
            self.fail(f"'{cut(value)}': write a whole number from 1, or auto.", param, ctx)
        return Count(1).convert(value, param, ctx)


def batch_option(command: F) -> F:
    """--batch, which `open_batches` takes."""
    return click.option(
        "--batch", type=BatchSize(), default="auto", show_default=True,
        help="Samples that go through the model at a time; auto: fewer when memory runs out.",
    )(command)  # fmt: skip


def source_option(command: F) -> F:
    """--indices-from."""
    return click.option(
        "--indices-from", "source", metavar="MODEL",
        help="Choose tokens on this model, with the same visual tokens, and keep them on --model.",
    )(command)  # fmt: skip


def as_json(command: F) -> F:
    return click.option("--json", "machine", is_flag=True, help="Print JSON instead of a table.")(command)


class OutFile(click.Path):
    """A file to write, of one of some suffixes; a wrong suffix or place is an error before the work."""

    def __init__(self, *suffixes: str) -> None:
        super().__init__(dir_okay=False, path_type=Path)
        self.suffixes = suffixes

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        path = Path(str(super().convert(value, param, ctx)))
        if path.suffix.lower() not in self.suffixes:
            self.fail(f"give {path} a name that ends in {' or '.join(self.suffixes)}.", param, ctx)
        OutFolder(locks=False).convert(path.parent, param, ctx)
        return path


def budgets(ctx: click.Context, parameter: click.Parameter, text: str | None) -> list[Keep]:
    """Callback for --keep 48,32,11.1%; empty where it was not given."""
    from compress.keep import read_keep

    if text is None:
        return []
    try:
        found = [read_keep(part) for part in text.split(",") if part.strip()]
    except ValueError:
        found = []
    if not found:
        raise click.BadParameter(f"'{text}': write budgets with commas, for instance 48,32,11.1%; {BUDGET}.")
    return list(dict.fromkeys(found))
