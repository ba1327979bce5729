"""`evocomp bench edge`: the phone protocol on runtimes with fixed shapes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bench.commands.options import (
    PROCESSES,
    Amount,
    Count,
    WholeNumbers,
    as_json,
    keeps_option,
    options_of,
    refuse_idle,
)
from bench.console import OutFolder, option, progress, say, show_json
from evosearch.registry import names

if TYPE_CHECKING:
    from bench.edge.benchmark import EdgeOptions, SubjectOptions
    from bench.edge.precision import Precision

# Per option: the reason why other options have no effect with it, and their parameter names.
IDLE = {
    "external": (
        "which times another device",
        ("wanted", "model", "shape", "layers", "compressor", "precision", "positions", "samples", "threads",
         "clock", "files"),
    ),
    "shape": ("whose weights are random", ("model", "compressor", "samples")),
}  # fmt: skip


class PrecisionType(click.ParamType):
    """Bits of weights, activations and KV cache, such as W4A8KV8."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Precision:
        from bench.edge.precision import Precision

        return Precision.parse(value)


def budgeted(values: dict[str, Any]) -> EdgeOptions:
    """Default options with the budgets of --keep; UsageError for options that exclude each other."""
    refuse_idle(click.get_current_context(), IDLE)
    from bench.edge.benchmark import EdgeOptions

    return EdgeOptions(values.pop("keeps"))


@click.command()
@option(
    "--runtimes",
    "wanted",
    default="ort",
    help="Runtimes, separated by commas: ort, ort-static, llamacpp, llamacpp-unpadded, or all.",
)
@options_of(
    "bench.edge.benchmark:SubjectOptions", "subject",
    {
        "model": "LLaVA-1.5 model: shipped model, folder or hub name.",
        "shape": "Published architecture to build with random weights, instead of --model: llava-1.5-7b or "
        "llava-1.5-13b.",
        "layers": "Number of decoder layers to time, from the first.",
        "compressor": "Folder of a trained compressor.",
        "samples": "Number of questions whose answers are compared with those of torch.",
    },
    names={"layers": "--depth-slice"}, types={"layers": click.INT},
    defaults={"layers": "all", "compressor": "the shipped one"},
)  # fmt: skip
@keeps_option("1/3,2/9,1/9")
@options_of(
    "bench.edge.benchmark:EdgeOptions", "options",
    {
        "chunk": "Rows of a prefill call.",
        "contexts": "Rows of the KV cache without and with compression.",
        "text": "Maximum number of text tokens in a prompt.",
        "precision": "Precision of the decoder, such as W4A32KV8.",
        "positions": "Position ids of kept tokens: original, or renumbered without gaps (compact).",
        "decoded": "Tokens decoded after each prompt; the table shows the time per token.",
        "rounds": "Number of timed rounds (budgets are interleaved).",
        "warmup": "Number of warm-up rounds.",
        "threads": "Runtime threads; 0 = runtime default.",
        "clock": "Clock: wall time, or the CPU time of one thread (processor), for a CPU that other "
        "processes use as well.",
    },
    names={"decoded": "--decode"},
    types={
        "chunk": click.INT, "contexts": WholeNumbers(), "precision": PrecisionType(),
        "threads": Count(0, PROCESSES),
    },
    defaults={
        "chunk": "128, or fewer for small images",
        "contexts": "1024,256 for 576 visual tokens, scaled for others",
        "text": "a ninth of the visual tokens",
        "precision": "each runtime's own",
        "positions": "original where the runtime supports gaps",
    },
    start=budgeted,
)  # fmt: skip
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
@option("--out", type=OutFolder(), help="Folder for edge.json, edge.csv, edge.md and edge.html.")
@as_json
@click.pass_obj
def edge(
    command: str, wanted: str, subject: SubjectOptions, options: EdgeOptions, files: Path | None,
    external: str | None, tokens: int | None, timeout: float, paper: bool, out: Path | None, machine: bool,
) -> None:  # fmt: skip
    """Time the chain from image to answer with the fixed shapes of a phone (paper, Table 4).

    Prefill runs in chunks that are padded on the left, and decoding adds one token at a time. Both cache
    lengths share one file of int4 weights, and the KV cache is int8. Vision tower and compressor run in
    floating point.

    \b
    Example:
      evocomp bench edge --runtimes ort --out edge
    """
    from bench.edge import paper as published
    from bench.edge import table
    from bench.edge.protocol import PAPER_TOKENS
    from bench.edge.run import run
    from bench.edge.runtimes import external as other
    from bench.edge.runtimes.registry import RUNTIMES
    from bench.evaluation.environment import environment
    from bench.evaluation.history import now

    if external is not None:
        with progress("external", "budgets") as report:
            measured = [other.measure(external, options.plan(tokens or PAPER_TOKENS), timeout, report)]
    elif tokens is not None:
        raise ValueError("--tokens needs --external: a model determines its own number of visual tokens")
    else:
        measured = run(options, names(wanted, "--runtimes", [*RUNTIMES]), subject.load, progress, files)
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
            say(f"edge.json, edge.csv, edge.md and edge.html are in {out}")


COMMANDS = {"edge": edge}
