"""`evocomp list`: the names that other commands take, one line each."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from bench.commands.options import as_json, keep_option
from bench.console import anyres_option, option, show_json, show_table
from evosearch.registry import describe, options

if TYPE_CHECKING:
    from compress.base import Selector
    from compress.keep import Keep
    from compress.models.loading import Anyres


class Line(NamedTuple):
    name: str
    about: str
    options: dict[str, str]
    choices: tuple[str, ...] = ()  # on the requested model
    kind: tuple[tuple[str, str], ...] = ()  # further columns, which distinguish groups of entries


def _registered(module: str, registry: str) -> list[Line]:
    """Lines of a registry of classes, from their docstrings and signatures."""
    entries = getattr(import_module(module), registry)
    about = describe(entries)

    def shown(default: str) -> str:
        return "automatic" if default == "required" else default  # the commands fill in these options

    return [
        Line(name, about[name], {key: shown(default) for key, default in options(entry).items()})
        for name, entry in entries.items()
    ]


def _methods() -> list[Line]:
    """The methods, grouped by what they read and where they act; registration order within a group."""
    from baselines import METHODS
    from compress.base import LAYERS
    from evosearch.registry import pick

    listed = []
    for line in _registered("baselines", "METHODS"):
        method = pick(METHODS, line.name, "method", compressor="")
        reads = [words for words, holds in (
            ("frames of a video", method.video), ("question", method.reads_text),
            ("CLS", bool(method.tower_layers) and method.cls == "own"),
            ("attention in the tower", bool(method.tower_layers) and method.cls == "received"),
            ("CLIP's text tower", method.reads_clip is not None),
        ) if holds] or ["tokens alone"]  # fmt: skip
        acts = dict.fromkeys(_place(method, depth) for depth in sorted(method.schedule(576, 64, LAYERS)))
        kind = ("reads", ", ".join(reads)), ("acts", ", ".join(acts))
        listed.append(line._replace(kind=kind))
    groups = list(dict.fromkeys(line.kind for line in listed))
    return sorted(listed, key=lambda line: groups.index(line.kind))


def _place(method: Selector, depth: int) -> str:
    from compress.base import INPUT, VISION, TowerSelector

    if depth == VISION:
        return "in the tower" if isinstance(method, TowerSelector) else "after the tower"
    return "before the decoder" if depth == INPUT else "in the decoder"


def _losses() -> list[Line]:
    from compress.training.losses import LOSSES

    return [Line(name, kind.summary, {}) for name, kind in LOSSES.items()]


def _models() -> list[Line]:
    from compress.models.loading import MODELS

    return [Line(name, _about_model(folder), {}) for name, folder in MODELS.items()]


def _about_model(folder: Path) -> str:
    """Family and sizes of a model, read from its configuration."""
    from compress.models.loading import outline

    if not folder.is_dir():
        return f"not built yet: run make micro MODEL={folder.name}"
    mllm = outline(str(folder))
    parameters = sum(one.numel() for one in mllm.model.parameters())
    size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    return (
        f"{mllm.model.config.model_type}, {parameters / 1e6:.1f} M parameters, "
        f"{mllm.visual_tokens} visual tokens of "
        f"{mllm.image_side} x {mllm.image_side} pixels, {mllm.layers} decoder layers, "
        f"{mllm.decoder.config.vocab_size} words, {size / 2**20:.1f} MiB"
    )


def _show(listed: list[Line], machine: bool, about: str = "about") -> None:
    if machine:
        keys = ("name", about, "options", *(["choices"] if about != "about" else []))
        show_json([dict(zip(keys, line, strict=False)) | dict(line.kind) for line in listed])
        return
    header = ["name", *dict(listed[0].kind if listed else ()), about]
    rows = [[line.name, *dict(line.kind).values(), line.about] for line in listed]
    if any(line.choices for line in listed):
        header.append("choices where its paper and code leave something open")
        for row, line in zip(rows, listed, strict=True):
            row.append("; ".join(line.choices))
    if any(line.options for line in listed):
        header.append("options")
        for row, line in zip(rows, listed, strict=True):
            row.append(", ".join(f"{key}={value}" for key, value in line.options.items()))
    show_table(header, rows)


@click.group("list")
def lists() -> None:
    """List methods, models, tasks, recipes and other names, one line each.

    \b
    Example:
      evocomp list methods --model micro --keep 48
    """


@lists.command()
@option("--model", help="Show which methods run on this model, and why the others do not.")
@keep_option("Budget to try with --model")
@option(
    "--compressor", help="With --model: folder or hub name of a trained compressor. Default: the shipped one."
)
@option(
    "--engine", type=click.Choice(["transformers", "vllm"]), default="transformers",
    help="With --model: runtime of the model; vllm means our plug-in for it (docs/serving.md).",
)  # fmt: skip
@anyres_option
@as_json
def methods(
    model: str | None, keep: Keep | None, compressor: str | None, engine: str, anyres: Anyres, machine: bool
) -> None:
    """List the methods and the options that NAME:option=value sets.

    The list is grouped by what methods read of image and question, and by where they act.

    With --model, the list also shows each method's choices on such a model where its paper and official code
    leave something open.

    \b
    Example:
      evocomp list methods --model micro --keep 48
    """
    listed = _methods()
    if model is None:
        for option, value in (("--compressor", compressor), ("--keep", keep)):
            if value:
                raise ValueError(f"{option} needs a model to be tried on: add --model, or leave {option} out")
        if engine != "transformers":
            raise ValueError(f"--engine {engine} needs a model to be tried on: add --model")
        _show(listed, machine)
    else:
        about = f"runs on {model}" + (f" in {engine}" if engine != "transformers" else "")
        _show(_runs(model, anyres, keep, compressor, engine, listed), machine, about)


TRAINED = (
    "with --compressor FOLDER: one trained on this model (evocomp label, evocomp train), or on another, "
    "to whose width this one's features are pooled"
)


def _runs(
    model: str, anyres: Anyres, keep: Keep | None, compressor: str | None, engine: str, listed: list[Line]
) -> list[Line]:
    """The methods with "yes", or the reason why one does not run on a model at a budget in an engine."""
    from bench.evaluation.compressors import SHIPPED, selector_for, takes_compressor
    from bench.evaluation.opening import budget, load_model
    from bench.serving.choices import runs
    from compress.attach.session import attach
    from compress.budget import choices_of

    mllm = load_model(model, anyres=anyres)
    wanted, answers = budget(keep, mllm), []
    for line in listed:
        trained = takes_compressor(line.name)
        if trained and not compressor and not (SHIPPED / model / "compressor").is_dir():
            answers.append(line._replace(about=TRAINED))
            continue
        try:
            selector = selector_for(line.name, model, compressor if trained else None)
            line = line._replace(choices=choices_of(selector, mllm.traits))
            if selector.video and not mllm.video_arguments:
                raise ValueError(f"it chooses between frames, and {mllm.name} reads no videos")
            with attach(mllm, selector, wanted):
                pass
            if engine == "vllm":
                runs(mllm, selector, wanted)
            answers.append(line._replace(about="yes"))
        except ValueError as problem:
            answers.append(line._replace(about=f"no: {problem}"))
    return answers


@lists.command()
@as_json
def recipes(machine: bool) -> None:
    """List the shipped recipes, which `evocomp run` takes.

    \b
    Example:
      evocomp list recipes
    """
    from bench.recipe.schema import known, read

    found = {name: read(name) for name in known()}
    if machine:
        show_json(
            [
                {"name": name, "about": one.title, "model": one.model, "rows": len(one.rows)}
                for name, one in found.items()
            ]
        )
        return
    show_table(
        ["name", "about", "model", "rows"],
        [[name, one.title, one.model, str(len(one.rows) or "")] for name, one in found.items()],
    )


def _listing(plural: str, lines: Callable[[], list[Line]]) -> None:
    @lists.command(
        plural,
        help=f"List the {plural} and the options that NAME:option=value sets.\n\n\b\n"
        f"Example:\n  evocomp list {plural}",
    )
    @as_json
    def listing(machine: bool) -> None:
        _show(lines(), machine)


_listing("models", _models)
_listing("tasks", lambda: _registered("bench.tasks", "TASKS"))
_listing("groupers", lambda: _registered("evosearch", "GROUPERS"))
_listing("strategies", lambda: _registered("evosearch", "STRATEGIES"))
_listing("kinds", lambda: _registered("compress.labels", "KINDS"))
_listing("losses", _losses)

COMMANDS = {"list": lists}
