"""`evocomp bench edge`: the phone protocol on runtimes of fixed shapes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from bench.commands.options import PROCESSES, Amount, Count, as_json, keeps_option
from bench.console import OutFolder, option, progress, say, show_json, whole_numbers
from bench.evaluation.opening import load_model
from evosearch.registry import names

if TYPE_CHECKING:
    from bench.edge.chain import Positions
    from compress.keep import Keep

# What an option leaves nothing to do for, and why: the names of parameters.
IDLE = {
    "external": (
        "which times another device",
        ("wanted", "model", "shape", "layers", "compressor", "precision", "positions", "samples", "threads",
         "clock", "files"),
    ),
    "shape": ("whose weights are random", ("model", "compressor", "samples")),
}  # fmt: skip


@click.command()
@option(
    "--runtimes",
    "wanted",
    default="ort",
    help="Runtimes, separated by commas: ort, ort-static, llamacpp, llamacpp-unpadded, or all.",
)
@option("--model", default="micro", help="LLaVA-1.5 model: shipped model, folder or hub name.")
@option(
    "--shape",
    help="Published architecture to build with random weights, instead of --model: llava-1.5-7b or"
    " llava-1.5-13b.",
)
@option(
    "--depth-slice",
    "layers",
    type=int,
    help="Number of decoder layers to time, from the first. Default: all.",
)
@option("--compressor", help="Folder of a trained compressor. Default: the shipped one.")
@keeps_option("1/3,2/9,1/9")
@option("--chunk", type=int, help="Rows of a prefill call. Default: 128, or fewer for small images.")
@option(
    "--contexts",
    callback=whole_numbers,
    help="Rows of the KV cache without and with compression. Default: 1024,256 for 576 visual "
    "tokens, scaled for others.",
)
@option(
    "--text",
    type=Count(1),
    help="Maximum number of text tokens in a prompt. Default: a ninth of the visual tokens.",
)
@option("--precision", help="Precision of the decoder, such as W4A32KV8. Default: each runtime's own.")
@option(
    "--positions",
    type=click.Choice(["original", "compact"]),
    help="Position ids of kept tokens: original, or renumbered without gaps (compact). Default: "
    "original where the runtime supports gaps.",
)
@option(
    "--decode",
    "decoded",
    default=2,
    type=Count(1),
    help="Tokens decoded after each prompt; the table shows the time per token.",
)
@option(
    "--samples",
    default=8,
    type=Count(1),
    help="Number of questions whose answers are compared with those of torch.",
)
@option("--rounds", default=20, type=Count(1), help="Number of timed rounds (budgets are interleaved).")
@option("--warmup", default=3, type=Count(1), help="Number of warm-up rounds.")
@option("--threads", default=0, type=Count(0, PROCESSES), help="Runtime threads; 0 = runtime default.")
@option(
    "--clock",
    type=click.Choice(["wall", "processor"]),
    default="wall",
    help="Clock: wall time, or the CPU time of one thread (processor), for a CPU that other "
    "processes use as well.",
)
@option(
    "--files",
    type=OutFolder(),
    help="Folder in which exported graphs and weights are kept for later runs. Default: a temporary folder.",
)
@option("--external", metavar="CMD", help="Command that times another device (docs/edge.md).")
@option("--tokens", type=Count(9), help="With --external: visual tokens of its image. Default: 576.")
@option(
    "--timeout",
    default=600.0,
    type=Amount(0, min_open=True),
    help="Time limit of --external per budget, in seconds.",
)
@option("--paper", is_flag=True, help="Add the times that the paper reports for a phone's NPU.")
@option("--out", type=OutFolder(), help="Folder for edge.json, edge.csv and edge.md.")
@as_json
@click.pass_obj
def edge(
    command: str, wanted: str, model: str, shape: str | None, layers: int | None, compressor: str | None,
    keeps: list[Keep], chunk: int | None, contexts: list[int], text: int | None, precision: str | None,
    positions: Positions | None, decoded: int, samples: int, rounds: int, warmup: int, threads: int,
    clock: str, files: Path | None, external: str | None, tokens: int | None, timeout: float, paper: bool,
    out: Path | None, machine: bool,
) -> None:  # fmt: skip
    """Time the chain from image to answer with the fixed shapes of a phone (paper, Table 4).

    Prefill runs in chunks that are padded on the left, decoding one token at a time, with two cache lengths
    over one file of int4 weights and an int8 cache. Vision tower and compressor run in floating point.

    \b
    Example:
      evocomp bench edge --runtimes ort --out edge
    """
    refuse_idle(click.get_current_context())
    from bench.edge import paper as published
    from bench.edge import table
    from bench.edge.benchmark import Subject, own_model, published_size
    from bench.edge.precision import Precision
    from bench.edge.protocol import PAPER_TOKENS
    from bench.edge.run import EdgeOptions, run
    from bench.edge.runtimes import external as other
    from bench.edge.runtimes.registry import RUNTIMES
    from bench.evaluation.environment import environment
    from bench.evaluation.history import now

    options = EdgeOptions(
        keeps=keeps, chunk=chunk, contexts=contexts, text=text, decoded=decoded, warmup=warmup, rounds=rounds,
        threads=threads, positions=positions, precision=Precision.parse(precision) if precision else None,
        clock=clock,
    )  # fmt: skip

    def load() -> Subject:
        if shape:
            return published_size(shape, layers)
        return own_model(load_model(model, "cpu", "float32"), compressor, layers, samples)

    if external is not None:
        with progress("external", "budgets") as report:
            measured = [other.measure(external, options.plan(tokens or PAPER_TOKENS), timeout, report)]
    elif tokens is not None:
        raise ValueError("--tokens needs --external: a model determines its own number of visual tokens")
    else:
        measured = run(options, names(wanted, "--runtimes", [*RUNTIMES]), load, progress, files)
    if paper:
        measured.append(published.table())
    facts = environment() | {"date": now(), "command": command}
    if out:
        table.write(measured, facts, out)
    if machine:
        show_json(table.results(measured, facts))
    else:
        click.echo(replace(table.table(measured), title="milliseconds").text(), nl=False)
        if out:
            say(f"edge.json, edge.csv and edge.md are in {out}")


def refuse_idle(ctx: click.Context) -> None:
    """UsageError for options that another one leaves nothing to do for."""
    flags = {parameter.name: parameter.opts[0] for parameter in ctx.command.params}
    for flag, (why, idle) in IDLE.items():
        given = [
            flags[name] for name in idle if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE
        ]
        if ctx.params[flag] is not None and given:
            raise click.UsageError(f"{', '.join(given)}: not with --{flag}, {why}.")


COMMANDS = {"edge": edge}
