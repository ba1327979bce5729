"""`evocomp bench edge`: the phone protocol on runtimes of fixed shapes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from bench.commands.options import PROCESSES, Amount, Count, as_json, keeps_option
from bench.console import OutFolder, progress, say, show_json, whole_numbers
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
@click.option(
    "--runtimes",
    "wanted",
    default="ort",
    show_default=True,
    help="ort, ort-static, llamacpp, llamacpp-unpadded, with commas, or all.",
)
@click.option(
    "--model", default="micro", show_default=True, help="A LLaVA-1.5: shipped, in a folder, or a hub name."
)
@click.option(
    "--shape", help="llava-1.5-7b or llava-1.5-13b: random weights of this size, in place of --model."
)
@click.option("--depth-slice", "layers", type=int, help="Only the first so many decoder layers.")
@click.option("--compressor", help="Folder of a trained compressor; the shipped one by default.")
@keeps_option("1/3,2/9,1/9")
@click.option("--chunk", type=int, help="Rows of a prefill call; 128, fewer for small images.")
@click.option(
    "--contexts",
    callback=whole_numbers,
    help="Rows of the cache, without and with compression; 1024,256 for 576 visual tokens.",
)
@click.option("--text", type=Count(1), help="Text tokens of a prompt, at most; a ninth of the visual ones.")
@click.option("--precision", help="Of the decoder, as in W4A32KV8; each runtime's own by default.")
@click.option(
    "--positions",
    type=click.Choice(["original", "compact"]),
    help="Of kept tokens; original where the runtime takes gaps.",
)
@click.option(
    "--decode",
    "decoded",
    default=2,
    show_default=True,
    type=Count(1),
    help="Tokens decoded behind each prompt; the table has the time of one.",
)
@click.option(
    "--samples",
    default=8,
    show_default=True,
    type=Count(1),
    help="Questions whose answers are held against torch.",
)
@click.option("--rounds", default=20, show_default=True, type=Count(1), help="In which budgets take turns.")
@click.option("--warmup", default=3, show_default=True, type=Count(1), help="Rounds before them.")
@click.option(
    "--threads", default=0, show_default=True, type=Count(0, PROCESSES), help="Of the runtime; 0: its choice."
)
@click.option(
    "--clock",
    type=click.Choice(["wall", "processor"]),
    default="wall",
    show_default=True,
    help="processor: time of one thread, on a CPU that others use as well.",
)
@click.option("--files", type=OutFolder(), help="Keep exported graphs and weights here; used again.")
@click.option("--external", metavar="CMD", help="Time another device through a command (docs/edge.md).")
@click.option("--tokens", type=Count(9), help="With --external: visual tokens of its image; 576 by default.")
@click.option(
    "--timeout",
    default=600.0,
    show_default=True,
    type=Amount(0, min_open=True),
    help="Seconds that --external has per budget.",
)
@click.option("--paper", is_flag=True, help="Add the paper's own figures, of a phone's NPU.")
@click.option("--out", type=OutFolder(), help="Folder for edge.json with all samples, edge.csv and edge.md.")
@as_json
@click.pass_obj
def edge(
    command: str, wanted: str, model: str, shape: str | None, layers: int | None, compressor: str | None,
    keeps: list[Keep], chunk: int | None, contexts: list[int], text: int | None, precision: str | None,
    positions: Positions | None, decoded: int, samples: int, rounds: int, warmup: int, threads: int,
    clock: str, files: Path | None, external: str | None, tokens: int | None, timeout: float, paper: bool,
    out: Path | None, machine: bool,
) -> None:  # fmt: skip
    """Time the chain from image to answer as a phone has to run it (paper, Table 4).

    Shapes are fixed: prefill in chunks padded on the left, decoding of one token, two lengths of the cache
    over one file of int4 weights, an int8 cache; vision tower and compressor are float.

    \b
    Example:
      evocomp bench edge --runtimes ort,llamacpp --out edge
      evocomp bench edge --shape llava-1.5-7b --depth-slice 2 --paper
      evocomp bench edge --external "python phone.py"
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
        raise ValueError("--tokens goes with --external: a model knows how many it has")
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
    for option, (why, idle) in IDLE.items():
        given = [
            flags[name] for name in idle if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE
        ]
        if ctx.params[option] is not None and given:
            raise click.UsageError(f"{', '.join(given)}: not with --{option}, {why}.")


COMMANDS = {"edge": edge}
