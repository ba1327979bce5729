"""`evocomp bench latency`: time every stage of an answer under every method, on a GPU or CPU."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bench.commands.options import Count, as_json, keeps_option, options_of, refuse_idle
from bench.console import OutFolder, model_options, option, progress, say, show_json
from evosearch.registry import names

if TYPE_CHECKING:
    from bench.latency.run import Conditions, RequestOptions
    from compress.models.loading import Anyres


# Per option: the reason why other options have no effect with it, and their parameter names.
IDLE = {"shape": ("whose weights and prompt are random", ("model", "image", "question"))}


class Modes(click.ParamType):
    """Execution modes of a model, separated by commas, or all."""

    name = "text"

    def convert(
        self, value: str, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        from bench.latency.modes import MODES
        from evosearch.registry import find

        chosen = names(value, "--modes", list(MODES))
        for mode in chosen:
            find(MODES, mode, "mode")
        return tuple(chosen)


def budgeted(values: dict[str, Any]) -> Conditions:
    """Default conditions with the budgets of --keep; UsageError for options that exclude each other.

    The methods are set later.
    """
    context = click.get_current_context()
    refuse_idle(context, IDLE)
    text = context.get_parameter_source("text")
    if context.params["shape"] is None and text is click.core.ParameterSource.COMMANDLINE:
        raise click.UsageError("--text needs --shape: the question of a real model has its own length")
    from bench.latency.run import Conditions

    return Conditions(methods=(), keeps=tuple(values.pop("keeps")))


@click.command()
@option(
    "--methods", "wanted", default="all",
    help="Methods, separated by commas: NAME or NAME:option=value,... (evocomp list methods).",
)  # fmt: skip
@keeps_option("3/4,1/2,1/3,2/9,1/9")
@options_of(
    "bench.latency.run:Conditions", "conditions",
    {
        "match": "Which cost is held equal across methods: mean tokens per layer (equivalent), or tokens "
        "kept at the end (tokens).",
        "modes": "Execution modes, separated by commas: eager, static, compiled, graphs, or all.",
        "batch": "Number of identical requests per batch.",
        "steps": "Number of tokens to decode.",
        "repetitions": "Number of timed rounds (methods are interleaved).",
        "warmup": "Number of warm-up rounds.",
        "clock": "Clock: wall time, or the CPU time of one thread (processor), for a CPU that other "
        "processes use as well.",
        "compressor": "Folder of a trained compressor.",
    },
    names={"steps": "--new"},
    types={
        "match": click.Choice(["equivalent", "tokens"]), "modes": Modes(), "repetitions": Count(2),
        "warmup": Count(0),
    },
    defaults={"modes": "eager", "compressor": "the shipped one; with --shape: random weights"},
    start=budgeted,
)  # fmt: skip
@options_of(
    "bench.latency.run:RequestOptions", "request",
    {
        "shape": "Published architecture to build with random weights, instead of --model.",
        "depth_slice": "With --shape: number of decoder layers to build.",
        "text": "With --shape: number of text tokens in the prompt.",
        "frames": "With --shape: number of frames of a video, which is shown in place of an image.",
        "image": "With --model: image file, or micro:SEED for a generated scene.",
        "question": "With --model: question to ask.",
    },
    types={"depth_slice": click.INT, "text": Count(2), "frames": Count(0)},
    defaults={"depth_slice": "all", "frames": "an image"},
)  # fmt: skip
@option(
    "--accuracy", "scored", type=click.Path(file_okay=False, path_type=Path),
    help="Folder of `evocomp compare --out`, for a plot of accuracy against latency.",
)  # fmt: skip
@option("--out", type=OutFolder(), help="Folder for raw times, tables and plots. An existing one is resumed.")
@model_options
@as_json
@click.pass_obj
def latency(
    command: str, wanted: str, conditions: Conditions, request: RequestOptions, scored: Path | None,
    out: Path | None, model: str, anyres: Anyres, device: str, dtype: str, machine: bool,
) -> None:  # fmt: skip
    """Time vision encoding, selection, prefill, first token, decoding and the total for every method.

    Timing uses the code path of evaluation. The modes static, compiled and graphs have rows of their own. The
    untouched model is always included, and speed-ups are relative to it, round by round. Run the same command
    again to resume after an interruption, or with more methods, budgets or repetitions to extend the table.

    \b
    Example:
      evocomp bench latency --methods fastv,visionzip,evocomp --keep 48,16 --out latency
    """
    from bench.latency.report import in_words, read_accuracy, results
    from bench.latency.run import RANDOM, rivals, run

    if "graphs" in conditions.modes and not device.startswith("cuda"):
        raise ValueError("--modes graphs records CUDA graphs: choose --device cuda, or other modes")
    accuracy = read_accuracy(scored) if scored else {}
    compressor = conditions.compressor or (RANDOM if request.shape else None)
    methods = rivals(wanted, model, compressor)  # report a typing error before a large model is built
    conditions = replace(conditions, methods=tuple(methods), model=model, compressor=compressor)
    mllm = request.load(model, device, dtype, anyres)
    inputs = request.inputs(mllm, conditions.batch)
    with progress("measure", "rounds") as report:
        found = run(mllm, conditions, inputs, out, accuracy=accuracy, command=command, progress=report)
    if machine:
        show_json(results(found))
        return
    click.echo(
        in_words(found, f"{mllm.name}, {device}, {dtype}: medians in ms of {conditions.clock} time"), nl=False
    )
    if out:
        say(f"results.json, latency.csv, latency.md, latency.html, raw rounds and pictures are in {out}")


COMMANDS = {"latency": latency}
