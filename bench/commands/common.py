"""What commands share: options, progress on stderr, tables on stdout."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from evosearch.registry import cut

if TYPE_CHECKING:
    from PIL.Image import Image

    from bench.evaluation.batches import Batches
    from bench.evaluation.compare import Comparison
    from bench.tasks import Task
    from compress.keep import Keep
    from compress.models.loading import MLLM, Anyres
    from compress.samples import Sample

F = TypeVar("F", bound=Callable[..., Any])
MOST = 10**9  # of samples, tokens, rounds and the like
PROCESSES = 1024  # or threads, at most
SEED = click.IntRange(0, 2**63 - 1)
BUDGET = "a budget is a count of visual tokens from 1, or a ratio of each image's, as 11.1% or 1/9"


anyres_option = click.option(
    "--anyres",
    type=click.Choice(["native", "fixed"]),
    default="native",
    show_default=True,
    help="Crops of a LLaVA-NeXT: by the image's shape, or always 2 x 2 without unpadding and newlines.",
)


def model_options(command: F) -> F:
    """--model, --anyres, --device and --dtype: what `load_model` takes."""
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
        anyres_option,
        click.option(
            "--model", default="micro", show_default=True, help="A shipped model, a folder or a hub name."
        ),
    ):
        command = option(command)
    return command


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
            help="NAME[:option=value] with commas (evocomp tasks).",
        ),
    ):
        command = option(command)
    return command


def open_tasks(
    tasks: str, count: int | None, data: str | None, protocol: str | None, split: str | None, *,
    labelled: bool = True,
) -> dict[Task, list[Sample]]:  # fmt: skip
    """The tasks that the options name with their samples."""
    from bench.tasks import BENCHMARKS
    from bench.tasks.load import load_tasks

    wanted = ",".join(BENCHMARKS) if tasks == "all" else tasks
    if not (named := specs(wanted)):
        raise ValueError(f"--tasks names nothing: write names with commas, or all ({', '.join(BENCHMARKS)})")
    return load_tasks(named, count, split, data=data, protocol=protocol, labelled=labelled)


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


def open_batches(size: int | None, mllm: MLLM) -> Batches:
    """Batches of the size that --batch names, or by the model's device."""
    from bench.evaluation.batches import Batches

    return Batches(size) if size else Batches.for_device(mllm.model.device)


def source_option(command: F) -> F:
    """--indices-from."""
    return click.option(
        "--indices-from", "source", metavar="MODEL",
        help="Choose tokens on this model, with the same visual tokens, and keep them on --model.",
    )(command)  # fmt: skip


def by_source(method: str, source: str) -> str:
    """The name of a method whose indices come from another model."""
    return f"{method} (indices from {Path(source).name})"


def as_json(command: F) -> F:
    return click.option("--json", "machine", is_flag=True, help="Print JSON instead of a table.")(command)


class OutFolder(click.Path):
    """A folder to write to, new or not. That nothing can be written there is an error before the work."""

    def __init__(self) -> None:
        super().__init__(file_okay=False, path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        folder = Path(str(super().convert(value, param, ctx)))
        place = folder.absolute()
        there = next(one for one in (place, *place.parents) if one.exists())
        if not there.is_dir():
            self.fail(f"{there} is a file, so {folder} cannot be a folder.", param, ctx)
        if not os.access(there, os.W_OK | os.X_OK):
            self.fail(f"{there} is not writable; choose another folder.", param, ctx)
        return folder


class OutFile(click.Path):
    """A file to write, of one of some suffixes; a wrong suffix or place is an error before the work."""

    def __init__(self, *suffixes: str) -> None:
        super().__init__(dir_okay=False, path_type=Path)
        self.suffixes = suffixes

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        path = Path(str(super().convert(value, param, ctx)))
        if path.suffix.lower() not in self.suffixes:
            self.fail(f"give {path} a name that ends in {' or '.join(self.suffixes)}.", param, ctx)
        OutFolder().convert(path.parent, param, ctx)
        return path


def load_model(model: str, device: str = "cpu", dtype: str = "float32", anyres: Anyres = "native") -> MLLM:
    """The model that the options name; transformers keeps quiet from here on."""
    import torch

    from compress.models.loading import load, quiet

    quiet()
    check_device(device)
    return load(model, device=device, dtype=getattr(torch, dtype), anyres=anyres)


def check_device(device: str) -> None:
    """ValueError for a device that is not there."""
    import torch

    try:
        torch.zeros(1, device=device).item()  # a device without memory, such as meta, gives no number
    except (RuntimeError, AssertionError, NotImplementedError) as problem:
        why = str(problem).partition("\n")[0]
        raise ValueError(f"--device {device} cannot be used here ({why}): try cpu or cuda") from problem


def open_image(name: str, side: int = 0) -> Image:
    """An image file, or `micro:SEED` for a scene of the micro world; ValueError that says what is wrong.

    A scene is photographed for a model that sees `side` pixels a side.
    """
    from bench.tasks.images import open_rgb

    if name.startswith("micro:"):
        from compress.micro.world import Photograph, scene

        seed = name.removeprefix("micro:")
        if not seed.isdecimal():
            raise ValueError(f"'{name}': write micro:SEED with a whole number, for instance micro:3")
        return Photograph(scene("test", int(seed))).at(side)
    if not Path(name).is_file():
        raise ValueError(f"there is no image at {name}: give an image file, or micro:SEED for a made scene")
    try:
        return open_rgb(Path(name), name)
    except ValueError as problem:
        raise ValueError(f"{problem}: give a PNG, JPEG or WebP file") from problem


def asked(question: str) -> str:
    """The question; ValueError if it is empty."""
    if not question.strip():
        raise ValueError("the question is empty: ask something about the image")
    return question


def budget(keep: Keep | None, mllm: MLLM) -> Keep:
    """--keep, a ninth of each image's visual tokens by default; ValueError if the model has not so many."""
    from compress.keep import NINTH, count_of

    tokens = mllm.visual_tokens
    if keep is None:
        keep = NINTH.of(tokens) if mllm.one_size else NINTH
    if count_of(keep, tokens) > tokens:
        raise ValueError(f"--keep {keep}: choose between 1 and the {tokens} visual tokens of {mllm.name}")
    return keep


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


def whole_numbers(ctx: click.Context, parameter: click.Parameter, text: str | None) -> list[int]:
    """Callback for options such as --together 1,16; empty for one that was not given."""
    if text is None:
        return []
    try:
        numbers = [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        numbers = []
    if not numbers:
        raise click.BadParameter(f"'{text}': write whole numbers with commas, for instance 1,16.")
    return list(dict.fromkeys(numbers))


def names(text: str, option: str, known: Sequence[str]) -> list[str]:
    """Comma-separated names without repetition, or all of `known` for "all"; ValueError if there is none."""
    given = list(known) if text == "all" else [part.strip() for part in text.split(",") if part.strip()]
    if not given:
        raise ValueError(f"{option} names nothing: write names with commas, or all ({', '.join(known)})")
    return list(dict.fromkeys(given))


def specs(text: str) -> list[str]:
    """Split "grid,fastv:layer=3,evocomp" at the commas between specs, not those between options."""
    found: list[str] = []
    for part in text.replace(";", ",").split(","):
        name, equals, _ = part.partition("=")
        if equals and ":" not in name and found:
            found[-1] += f",{part.strip()}"
        elif part.strip():
            found.append(part.strip())
    if twice := [one for one in found if found.count(one) > 1]:
        raise ValueError(f"'{cut(twice[0])}' is named twice: name it once")
    return found


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


def show_comparison(comparison: Comparison) -> None:
    """The table of a comparison on stdout, hard questions, notes, and a sentence per budget."""
    from bench.report.table import MIXED, hard_header, hard_rows, header, headlines, notes, table_rows

    show_table(header(comparison), table_rows(comparison), MIXED if comparison.mixed else None)
    if rows := hard_rows(comparison):
        show_table(hard_header(comparison), rows, "on the hard questions")
    for line in [*notes(comparison), *headlines(comparison)]:
        click.echo(line)


def show_json(content: object) -> None:
    click.echo(json.dumps(content, indent=1))


def _is_number(text: str) -> bool:
    try:
        float(text.strip("% °†").replace("–", "0") or "0")
    except ValueError:
        return False
    return True
