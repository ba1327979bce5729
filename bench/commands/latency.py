"""`evocomp bench latency`: time every stage of an answer under every method, on a GPU or CPU."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from bench.commands.inputs import asked
from bench.commands.options import Count, as_json, keeps_option
from bench.console import OutFolder, model_options, option, progress, say, show_json
from bench.evaluation.opening import load_model, shaped
from evosearch.registry import names

if TYPE_CHECKING:
    from compress.budget import Match
    from compress.keep import Keep
    from compress.models.loading import Anyres


@click.command()
@option(
    "--methods", "wanted", default="all",
    help="Methods, separated by commas: NAME or NAME:option=value,... (evocomp list methods).",
)  # fmt: skip
@keeps_option("3/4,1/2,1/3,2/9,1/9")
@option(
    "--match", type=click.Choice(["equivalent", "tokens"]), default="equivalent",
    help="Which cost is held equal across methods: mean tokens per layer (equivalent), or tokens "
        "kept at the end (tokens).",
)  # fmt: skip
@option(
    "--modes",
    default="eager",
    help="Execution modes, separated by commas: eager, static, compiled, graphs, or all.",
)
@option("--shape", help="Published architecture to build with random weights, instead of --model.")
@option(
    "--depth-slice",
    type=int,
    metavar="N",
    help="With --shape: number of decoder layers to build. Default: all.",
)
@option("--batch", default=1, type=Count(1), help="Number of identical requests per batch.")
@option("--new", "steps", default=8, type=Count(1), help="Number of tokens to decode.")
@option("--text", default=40, type=Count(2), help="With --shape: number of text tokens in the prompt.")
@option("--image", default="micro:3", help="With --model: image file, or micro:SEED for a generated scene.")
@option("--question", default="what color is the star ?", help="With --model: question to ask.")
@option("--repetitions", default=30, type=Count(2), help="Number of timed rounds (methods are interleaved).")
@option("--warmup", default=3, type=Count(0), help="Number of warm-up rounds.")
@option(
    "--clock", type=click.Choice(["wall", "processor"]), default="wall",
    help="Clock: wall time, or the CPU time of one thread (processor), for a CPU that other "
        "processes use as well.",
)  # fmt: skip
@option(
    "--compressor",
    help="Folder of a trained compressor. Default: the shipped one; with --shape: random weights.",
)
@option(
    "--accuracy", "scored", type=click.Path(file_okay=False, path_type=Path),
    help="Folder of `evocomp compare --out`, for a plot of accuracy against latency.",
)  # fmt: skip
@option("--out", type=OutFolder(), help="Folder for raw times, tables and plots. An existing one is resumed.")
@model_options
@as_json
@click.pass_obj
def latency(
    command: str, wanted: str, keeps: list[Keep], match: Match, modes: str, shape: str | None,
    depth_slice: int | None, batch: int, steps: int, text: int, image: str, question: str, repetitions: int,
    warmup: int, clock: str, compressor: str | None, scored: Path | None, out: Path | None, model: str,
    anyres: Anyres, device: str, dtype: str, machine: bool,
) -> None:  # fmt: skip
    """Time vision encoding, selection, prefill, first token, decoding and the total for every method.

    Timing uses the code path of evaluation. The modes static, compiled and graphs have rows of their own. The
    untouched model is always included, and speed-ups are relative to it, round by round. Run the same command
    again to resume after an interruption, or with more methods, budgets or repetitions to extend the table.

    \b
    Example:
      evocomp bench latency --methods fastv,visionzip,evocomp --keep 48,16 --out latency
    """
    from bench.latency.modes import MODES
    from bench.latency.report import in_words, read_accuracy, results
    from bench.latency.run import RANDOM, Conditions, prompt, rivals, run
    from compress.models.shapes import random_inputs
    from evosearch.registry import find

    chosen = names(modes, "--modes", list(MODES))
    for mode in chosen:
        find(MODES, mode, "mode")
    if depth_slice is not None and not shape:
        raise ValueError("--depth-slice needs --shape (evocomp bench latency --help)")
    if "graphs" in chosen and not device.startswith("cuda"):
        raise ValueError("--modes graphs records CUDA graphs: choose --device cuda, or other modes")
    accuracy = read_accuracy(scored) if scored else {}
    compressor = compressor or (RANDOM if shape else None)
    methods = rivals(wanted, model, compressor)  # a slip of the pen is told before a large model is made
    mllm = shaped(shape, device, dtype, depth_slice) if shape else load_model(model, device, dtype, anyres)
    conditions = Conditions(
        methods=tuple(methods), keeps=tuple(keeps), modes=tuple(chosen), match=match, batch=batch,
        steps=steps, repetitions=repetitions, warmup=warmup, model=model, compressor=compressor, clock=clock,
    )  # fmt: skip
    inputs = random_inputs(mllm, text, batch) if shape else prompt(mllm, image, asked(question), batch)
    with progress("measure", "rounds") as report:
        found = run(mllm, conditions, inputs, out, accuracy=accuracy, command=command, progress=report)
    if machine:
        show_json(results(found))
        return
    click.echo(in_words(found, f"{mllm.name}, {device}, {dtype}: medians in ms of {clock} time"), nl=False)
    if out:
        say(f"results.json, latency.csv, latency.md, raw rounds and pictures are in {out}")


COMMANDS = {"latency": latency}
