"""Options that several commands share, the types of their values, and options made from dataclasses."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, wraps
from importlib import import_module
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from bench.console import F, OutFolder, option, read_whole_numbers, with_default
from evosearch.registry import cut

if TYPE_CHECKING:
    from compress.keep import Keep
    from compress.parallel import Engine


MOST = 10**9  # of samples, tokens, rounds and the like
PROCESSES = 1024  # maximum number, also of threads
SEED = click.IntRange(0, 2**63 - 1)
MATCH = (
    "Which cost is held equal across methods: tokens kept at the end (tokens), mean tokens per layer "
    "(equivalent), or prefill FLOPs (flops)."
)
MARGIN = "Points within which the whole 95 % interval of an average must lie to be marked as equivalent."
BATCH = "Batch size; auto halves it when memory runs out."
SOURCE = "Select tokens with this model, which must have the same visual tokens, and keep them in --model."
BUDGET = "a budget is a count of visual tokens from 1, or a ratio of each image's, as 11.1% or 1/9"


def data_options(command: F, each: str = "400; with --data: all") -> F:
    """Add --tasks, -n (default: `each`), --data, --protocol and --split, the arguments of `open_tasks`."""
    for add in (
        option(
            "--split",
            help="Split: test or val for the miniatures, or a split of --data. Default: test; with --data:"
            " the first split of each task.",
        ),
        option(
            "--protocol", help="Prompts and answer matching with --data: llava or lmms-eval. Default: llava."
        ),
        option(
            "--data",
            help="Folder of benchmarks (docs/benchmarks.md) or hub:OWNER. Default: the miniatures.",
        ),
        option("-n", "count", type=Count(1), help=f"Questions per task. Default: {each}."),
        option(
            "--tasks",
            default="all",
            help="Tasks, separated by commas: NAME[:option=value,...] (evocomp list tasks); all: the paper's "
            "six, or those about videos for micro-video.",
        ),
    ):
        command = add(command)
    return command


def refuse_idle(ctx: click.Context, idle: Mapping[str, tuple[str, Sequence[str]]]) -> None:
    """Raise UsageError for options that have no effect together with another option.

    `idle` maps the other option's parameter to the reason and the names of the parameters without effect.
    """
    flags = {parameter.name: parameter.opts[0] for parameter in ctx.command.params}
    for name, (why, others) in idle.items():
        given = [
            flags[other] for other in others if ctx.get_parameter_source(other) is ParameterSource.COMMANDLINE
        ]
        if ctx.params[name] is not None and given:
            raise click.UsageError(f"{', '.join(given)}: not with {flags[name]}, {why}.")


def match_option(command: F) -> F:
    """Add --match."""
    return option(
        "--match",
        type=click.Choice(["tokens", "equivalent", "flops"]),
        default="equivalent",
        help=MATCH,
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


class KeepType(click.ParamType):
    """A count of visual tokens, or a ratio of each image's tokens."""

    name = "N or RATIO"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Keep:
        from compress.keep import read_keep

        try:
            return read_keep(value)
        except ValueError:
            self.fail(f"'{value}': {BUDGET}.", param, ctx)


def keep_option(about: str, default: str = "1/9") -> Callable[[F], F]:
    """Add --keep with one budget; `budget` checks it against a model."""
    return option(
        "--keep",
        type=KeepType(),
        help=f"{about}: a count, or a ratio of the image's own tokens (11.1%, 1/9). Default: {default}.",
    )


def keeps_option(default: str) -> Callable[[F], F]:
    """Add --keep with several budgets."""
    return option(
        "--keep", "keeps", default=default, callback=budgets,
        help="Budgets, separated by commas: counts, or ratios of each image's visual tokens (11.1%, 1/9).",
    )  # fmt: skip


def video_options(command: F) -> F:
    """Add --frames and --rate, for commands that accept a video in place of an image."""
    for add in (
        option(
            "--rate", type=Amount(0, min_open=True),
            help="Frames per second to take of a video, at most --frames. Default: as --frames says.",
        ),
        option(
            "--frames", type=Count(1),
            help="Frames to take of a video, evenly from the first to the last. Default: 32, or what --rate "
            "says.",
        ),
    ):  # fmt: skip
        command = add(command)
    return command


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
    """Add --batch, an argument of `Batches.of`."""
    return option(
        "--batch", type=BatchSize(), default="auto", help=BATCH,
    )(command)  # fmt: skip


def source_option(command: F) -> F:
    """Add --indices-from."""
    return option(
        "--indices-from", "source", metavar="MODEL", help=SOURCE,
    )(command)  # fmt: skip


def as_json(command: F) -> F:
    return option("--json", "machine", is_flag=True, help="Print JSON instead of a table.")(command)


@dataclass(frozen=True)
class Crew:
    """The workers of an engine: their number, and the `device` of each."""

    engine: Engine
    workers: int
    device: str


def engine_options(command: F) -> F:
    """Add --engine, --workers, --devices, --address and --gpus, passed on as `crew`; requires --device."""

    @wraps(command)
    def with_crew(
        *positional: Any, engine: str, workers: int | None, devices: str | None, address: str | None,
        gpus: float | None, **values: Any,
    ) -> Any:  # fmt: skip
        given = click.get_current_context().get_parameter_source("device")
        if devices and given is not click.core.ParameterSource.DEFAULT:
            raise ValueError("--devices and --device: give one of them")
        crew = open_crew(engine, workers, devices, address, gpus, values["device"])
        return command(*positional, crew=crew, **values)

    found: Any = with_crew
    for add in (
        option(
            "--gpus", type=Amount(0),
            help="GPUs per Ray worker. Default: 1 with --device cuda; otherwise 0.",
        ),
        option(
            "--address",
            help="Address of a running Ray cluster: HOST:PORT or auto. Default: start a local cluster.",
        ),
        option(
            "--devices", metavar="LIST",
            help="Devices of this machine, separated by commas, with a worker process for each: "
            "cuda:0,cuda:1,... Default: --device alone.",
        ),
        option(
            "--workers", type=Count(1, PROCESSES),
            help="Number of worker processes or actors. Results do not depend on it. Default: 1; with "
            "--devices: one for each.",
        ),
        option(
            "--engine", type=click.Choice(["local", "ray"]), default="local",
            help="Where workers run: processes of this machine, or actors of a Ray cluster. Results do not "
            "depend on it.",
        ),
    ):  # fmt: skip
        found = add(found)
    return found


def open_crew(
    engine: str, workers: int | None, devices: str | None, address: str | None, gpus: float | None,
    device: str,
) -> Crew:  # fmt: skip
    """The workers that the options specify."""
    from compress.parallel import Cluster, Devices, Local

    if engine == "ray":
        if devices:
            raise ValueError("--devices needs --engine local: Ray's workers take --gpus of their nodes")
        share = float(device.startswith("cuda")) if gpus is None else gpus
        return Crew(Cluster(address, share), workers or 1, device)
    for name, value in (("--address", address), ("--gpus", gpus)):
        if value is not None:
            raise ValueError(f"{name} needs --engine ray")
    if not devices:
        return Crew(Local(), workers or 1, device)
    listed = tuple(one.strip() for one in devices.split(",") if one.strip())
    if workers not in (None, len(listed)):
        raise ValueError(
            f"--workers {workers}: there is one for each of the {len(listed)} --devices; leave it out"
        )
    return Crew(Devices(listed), len(listed), listed[0] if listed else device)


class OutFile(click.Path):
    """An output file with one of several suffixes; a wrong suffix or folder is an error before the work."""

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
    """Callback for --keep 48,32,11.1%; an empty list if the option was not given."""
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


class WholeNumbers(click.ParamType):
    """Whole numbers separated by commas, without duplicates."""

    name = "text"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> list[int]:
        try:
            return read_whole_numbers(value)
        except ValueError as problem:
            self.fail(str(problem), param, ctx)


# Options from the fields of a dataclass --------------------------------------------------------------------


@dataclass(frozen=True)
class Field:
    """A field of a dataclass as written in its source; `type` is the click type of its option."""

    name: str
    type: Any
    default: Any


def options_of(
    owner: str, argument: str, helps: Mapping[str, str], *, names: Mapping[str, str] | None = None,
    types: Mapping[str, Any] | None = None, defaults: Mapping[str, str] | None = None,
    start: Callable[[dict[str, Any]], Any] | None = None,
) -> Callable[[F], F]:  # fmt: skip
    """Add options for fields of the dataclass `owner` ("module:Class"), passed on as one object, `argument`.

    Every field with a text in `helps` gets an option, in that order. Type and default are those of the field.
    The class is imported only when the command runs, so that help does not wait for torch. `names` has option
    names that differ from the field's name. `types` has click types for ranges and choices that are not in
    the annotation. `defaults` describes a default of None in words. `start` makes the object whose fields the
    options replace from the command's other values, and may remove some of these.
    """
    fields = {field.name: field for field in fields_of(owner)}
    if absent := helps.keys() - fields.keys():
        raise LookupError(f"{owner} has no field {', '.join(sorted(absent))}")

    def decorate(command: F) -> F:
        @wraps(command)
        def with_object(*positional: Any, **values: Any) -> Any:
            given = {name: value for name in helps if (value := values.pop(name)) is not None}
            made = start(values) if start else _class(owner)
            values[argument] = replace(made, **given) if start else made(**given)
            return command(*positional, **values)

        found: Any = with_object
        for name in reversed(list(helps)):
            found = _option(fields[name], helps[name], names or {}, types or {}, defaults or {})(found)
        return found

    return decorate


def _option(
    field: Field, text: str, names: Mapping[str, str], types: Mapping[str, Any], defaults: Mapping[str, str]
) -> Callable[[F], F]:
    declared = names.get(field.name, f"--{field.name.replace('_', '-')}")
    default = defaults.get(field.name, "" if field.default is None else field.default)
    if isinstance(field.default, bool):
        yes, _, no = declared.partition("/")
        default = yes if field.default else no
        kind: dict[str, Any] = {"is_flag": True}
    else:
        kind = {"type": types.get(field.name, field.type)}
    return click.option(declared, field.name, default=None, help=with_default(text, default), **kind)


def _class(owner: str) -> Any:
    module, _, name = owner.partition(":")
    return getattr(import_module(module), name)


def fields_of(owner: str) -> Iterator[Field]:
    """The fields of a dataclass, read from its source. A default that a call makes reads as None."""
    module, _, name = owner.partition(":")
    (found,) = (node for node in _tree(module).body if isinstance(node, ast.ClassDef) and node.name == name)
    for node in found.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            written = None if isinstance(node.value, ast.Call) else node.value  # field(default_factory=...)
            default = None if written is None else ast.literal_eval(written)
            yield Field(node.target.id, _type(node.annotation, module), default)


def keys_of(owner: str) -> list[str]:
    """The keys of a dictionary at the top level of a module ("module:NAME"), read from its source."""
    module, _, name = owner.partition(":")
    (found,) = (
        node.value for node in _tree(module).body
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == name
    )  # fmt: skip
    assert isinstance(found, ast.Dict)
    return [ast.literal_eval(key) for key in found.keys if key]


@cache
def _tree(module: str) -> ast.Module:
    file = Path(__file__).parents[2].joinpath(*module.split(".")).with_suffix(".py")
    return ast.parse(file.read_text(encoding="utf-8"))


def _type(annotation: ast.expr, module: str) -> Any:
    """The click type for an annotation; text if the annotation is not more specific."""
    if isinstance(annotation, ast.BinOp):  # X | None
        return _type(annotation.left, module)
    if isinstance(annotation, ast.Subscript) and ast.unparse(annotation.value) == "Literal":
        values = ast.literal_eval(annotation.slice)
        return click.Choice(values if isinstance(values, tuple) else [values])
    if not isinstance(annotation, ast.Name):
        return click.STRING
    simple = {"int": Count(1), "float": click.FLOAT, "str": click.STRING, "bool": click.BOOL}
    return simple.get(annotation.id) or _alias(annotation.id, module)


def _alias(name: str, module: str) -> Any:
    """The type of a name defined at the top level of a module, or of the module that it is imported from."""
    for node in ast.walk(_tree(module)):
        if isinstance(node, ast.Assign) and [ast.unparse(one) for one in node.targets] == [name]:
            return _type(node.value, module)
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for one in node.names:
                if (one.asname or one.name) == name:
                    return _alias(one.name, node.module)
    return click.STRING
