"""`evocomp bench latency`: time every stage of an answer under every method, on a GPU or CPU."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from bench.commands.inputs import asked
from bench.commands.options import Count, as_json, keeps_option
from bench.console import OutFolder, model_options, progress, say, show_json
from bench.evaluation.opening import load_model, shaped
from evosearch.registry import names

if TYPE_CHECKING:
    from compress.budget import Match
    from compress.keep import Keep
    from compress.models.loading import Anyres


@click.command()
@click.option(
    "--methods", "wanted", default="all", show_default=True,
    help="NAME or NAME:option=value,... with commas (evocomp list methods).",
)  # fmt: skip
@keeps_option("3/4,1/2,1/3,2/9,1/9")
@click.option(
    "--match", type=click.Choice(["equivalent", "tokens"]), default="equivalent", show_default=True,
    help="What budgets equal: the mean of tokens over layers, or tokens after the last stage.",
)  # fmt: skip
@click.option("--modes", default="eager", show_default=True, help="eager, static, compiled, graphs; or all.")
@click.option("--shape", help="A published architecture with random weights, in place of --model.")
@click.option("--depth-slice", type=int, metavar="N", help="With --shape: N decoder layers only.")
@click.option("--batch", default=1, show_default=True, type=Count(1), help="Equal requests at once.")
@click.option("--new", "steps", default=8, show_default=True, type=Count(1), help="Tokens to decode.")
@click.option("--text", default=40, show_default=True, type=Count(2), help="With --shape: prompt tokens.")
@click.option("--image", default="micro:3", show_default=True, help="With --model: a file, or micro:SEED.")
@click.option("--question", default="what color is the star ?", show_default=True, help="With --model.")
@click.option("--repetitions", default=30, show_default=True, type=Count(2))
@click.option("--warmup", default=3, show_default=True, type=Count(0))
@click.option(
    "--clock", type=click.Choice(["wall", "processor"]), default="wall", show_default=True,
    help="processor: time of one thread on a CPU that others use as well.",
)  # fmt: skip
@click.option("--compressor", help="Folder of a trained compressor; with --shape a random one by default.")
@click.option(
    "--accuracy", "scored", type=click.Path(file_okay=False, path_type=Path),
    help="Folder of evocomp compare --out, for the plot of accuracy against latency.",
)  # fmt: skip
@click.option("--out", type=OutFolder(), help="Folder for raw times, tables and plots; resumable.")
@model_options
@as_json
@click.pass_obj
def latency(
    command: str, wanted: str, keeps: list[Keep], match: Match, modes: str, shape: str | None,
    depth_slice: int | None, batch: int, steps: int, text: int, image: str, question: str, repetitions: int,
    warmup: int, clock: str, compressor: str | None, scored: Path | None, out: Path | None, model: str,
    anyres: Anyres, device: str, dtype: str, machine: bool,
) -> None:  # fmt: skip
    """Time vision encoding, selection, prefill, first token, decoding and total, method by method in turns.

    The path that is timed is the one that is evaluated; static, compiled and graphs are rows of their own.
    Vanilla is always there, and speed-ups are against it, round by round. Run the same command again to go on
    after an interruption, or with more methods, budgets or repetitions.

    \b
    Example:
      evocomp bench latency --methods fastv,visionzip,evocomp --keep 48,16 --out latency
      evocomp bench latency --shape llava-next-7b --device cuda --dtype bfloat16 --keep 640,320,160
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
        raise ValueError("--depth-slice cuts a --shape: name one (evocomp bench latency --help)")
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
