"""`evocomp bench latency`: time every stage of an answer under every method, on a GPU or CPU."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from bench.commands.inputs import asked, load_model, open_image
from bench.commands.options import Count, OutFolder, as_json, keeps_option, model_options
from bench.console import progress, say, show_json, show_table
from bench.evaluation.environment import check_device
from evosearch.registry import names, specs

if TYPE_CHECKING:
    from bench.latency.report import Report
    from compress.budget import Match
    from compress.keep import Keep
    from compress.models.loading import MLLM, Anyres


@click.command()
@click.option(
    "--methods", "wanted", default="all", show_default=True,
    help="NAME or NAME:option=value,... with commas (evocomp methods).",
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
    from bench.latency.report import read_accuracy, results, write
    from bench.latency.run import RANDOM, Conditions, run
    from compress.keep import count_of
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
    tokens = mllm.visual_tokens
    budgets = list(dict.fromkeys(count_of(keep, tokens) for keep in keeps))  # all requests have one image
    if wrong := [keep for keep in budgets if not 1 <= keep < tokens]:
        raise ValueError(
            f"--keep {wrong[0]}: choose between 1 and {tokens - 1}, below {mllm.name}'s {tokens}"
        )
    conditions = Conditions(
        methods=tuple(methods), keeps=tuple(budgets), modes=tuple(chosen), match=match, batch=batch,
        steps=steps, repetitions=repetitions, warmup=warmup, model=model, compressor=compressor, clock=clock,
    )  # fmt: skip
    inputs = prompt(mllm, bool(shape), text, batch, image, question)
    with progress("measure", "rounds") as report:
        found = run(mllm, conditions, inputs, out, accuracy=accuracy, command=command, progress=report)
    if out:
        write(found, out)
    if machine:
        show_json(results(found))
        return
    show(found, f"{mllm.name}, {device}, {dtype}: medians in ms of {clock} time")
    if out:
        say(f"results.json, latency.csv, latency.md, raw rounds and pictures are in {out}")


def rivals(wanted: str, model: str, compressor: str | None) -> list[str]:
    """Specs of the methods that are asked for, or of all that can be built, without vanilla, which is always
    timed; ValueError for names that do not exist."""
    from baselines import METHODS
    from bench.evaluation.comparison import VANILLA
    from bench.evaluation.compressors import buildable
    from evosearch.registry import find, parse

    listed = buildable(model, compressor) if wanted.strip() == "all" else specs(wanted)
    for spec in listed:
        find(METHODS, parse(spec)[0], "method")
    return [spec for spec in listed if spec != VANILLA]


def show(report: Report, title: str) -> None:
    """Tables and notes on stdout."""
    from bench.latency.report import break_even_header, break_even_table, header, table

    show_table(header(report), table(report), title)
    if lines := break_even_table(report):
        show_table(break_even_header(report), lines, "break-even: visual tokens from which on it is faster")
    for note in report.notes():
        click.echo(note)


def shaped(shape: str, device: str, dtype: str, depth: int | None) -> MLLM:
    """A model of random weights; ValueError, in one line, where it does not fit."""
    import torch

    from compress.models.loading import quiet
    from compress.models.shapes import build
    from compress.parallel.memory import ran_out

    quiet()
    check_device(device)
    try:
        return build(shape, device=device, dtype=getattr(torch, dtype), depth=depth)
    except (MemoryError, RuntimeError) as problem:
        if not ran_out(problem):
            raise
        raise ValueError(
            f"{shape} in {dtype} does not fit into the memory of {device}: choose --depth-slice N or bfloat16"
        ) from problem


def prompt(mllm: MLLM, noise: bool, text: int, batch: int, image: str, question: str) -> dict[str, object]:
    """Inputs of the model: the same request `batch` times.

    ValueError for an image with another number of visual tokens than the model says that it has: budgets,
    costs and the lengths of caches are counted from that.
    """
    if noise:
        from compress.models.shapes import random_inputs

        return dict(random_inputs(mllm, text, batch))
    picture = open_image(image, mllm.image_side)
    inputs = mllm.prepare([picture] * batch, [asked(question)] * batch)
    found, side = int((inputs["input_ids"][0] == mllm.image_token_id).sum()), mllm.image_side
    if found != mllm.visual_tokens:
        raise ValueError(
            f"--image {image} of {picture.width} x {picture.height} pixels has {found} visual tokens and "
            f"{mllm.name} is timed with {mllm.visual_tokens}: give an image of {side} x {side} pixels"
        )
    return dict(inputs)


COMMANDS = {"latency": latency}
