"""Time the shape of LLaVA-NeXT-7B on a GPU: 2880 visual tokens reduced to 640, 320 and 160 by every method.

    python -m bench.speed.figure4 --out figure4

There are two runs, each with its own folder, and each can be resumed. `eager` times all methods in the mode
of evaluation. `fast` times methods that act before the decoder, with fixed caches, compiled, and as CUDA
graphs. The result is compared with a target at the smallest budget: speed-ups over vanilla of six for prefill
with selection and of four for the whole answer (paper, Figure 4, on an A100: 4.1 and 2.6). Weights are
random, because a latency does not depend on them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from bench.console import OutFolder, option, progress, say, whole_numbers
from bench.evaluation.opening import shaped
from bench.latency.report import LatencyReport, in_words, read_accuracy
from bench.latency.run import RANDOM, Conditions, rivals, run
from compress.models.shapes import random_inputs
from evosearch.registry import names

HOPED = {"prefill with selection": (6.0, 4.1), "total": (4.0, 2.6)}  # speed-ups: target, paper


@click.command()
@option("--out", required=True, type=OutFolder(), help="Folder for both runs.")
@option("--shape", default="llava-next-7b", help="Published architecture to build with random weights.")
@option("--device", default="cuda", help="Device of the model.")
@option("--dtype", default="bfloat16", help="Number type of the weights.")
@option(
    "--depth-slice", type=int, help="Number of decoder layers to build, for a small machine. Default: all."
)
@option(
    "--keep",
    "keeps",
    default="640,320,160",
    callback=whole_numbers,
    help="Budgets in visual tokens, separated by commas.",
)
@option("--methods", default="all", help="Methods of the eager run, separated by commas.")
@option("--fast", default="evocomp", help="Methods of the fast run, separated by commas.")
@option("--modes", default="static,compiled,graphs", help="Execution modes of the fast run.")
@option("--text", default=40, type=click.IntRange(2), help="Text tokens of the prompt.")
@option("--new", "steps", default=8, type=click.IntRange(1), help="Tokens to decode.")
@option("--repetitions", default=30, type=click.IntRange(2), help="Timed rounds.")
@option("--warmup", default=3, type=click.IntRange(0), help="Warm-up rounds.")
@option(
    "--accuracy",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of `evocomp compare --out`, for a plot of accuracy against latency.",
)
def main(
    out: Path, shape: str, device: str, dtype: str, depth_slice: int | None, keeps: list[int], methods: str,
    fast: str, modes: str, text: int, steps: int, repetitions: int, warmup: int, accuracy: Path | None,
) -> None:  # fmt: skip
    """Time all methods on a GPU, and hold the result against what was hoped for."""
    scored = read_accuracy(accuracy) if accuracy else {}
    parts = {
        "eager": (rivals(methods, "", RANDOM), ["eager"]),
        "fast": (rivals(fast, "", RANDOM), names(modes, "--modes", ["static", "compiled", "graphs"])),
    }
    mllm = shaped(shape, device, dtype, depth_slice)
    inputs = random_inputs(mllm, text)
    reports = []
    for part, (chosen, ways) in parts.items():
        conditions = Conditions(
            methods=tuple(chosen), keeps=tuple(keeps), modes=tuple(ways), steps=steps,
            repetitions=repetitions, warmup=warmup, compressor=RANDOM,
        )  # fmt: skip
        with progress(part, "rounds") as told:
            report = run(mllm, conditions, inputs, out / part, accuracy=scored, progress=told)
        click.echo(in_words(report, f"{mllm.name}, {part}: medians in ms"), nl=False)
        reports.append(report)
    for line in verdicts(reports, min(keeps)):
        click.echo(line)
    say(f"results.json, tables, raw rounds and pictures are in {out}")


def verdicts(reports: Sequence[LatencyReport], keep: int) -> list[str]:
    """For every stage with a target: the fastest method at this budget, and whether it reaches the target."""
    said = []
    rows = [row for report in reports for row in report.rows if row.cell.keep == keep and row.speedups]
    for stage, (hoped, paper) in HOPED.items() if rows else ():
        best = max(rows, key=lambda row: row.speedups[stage].low)
        speedup = best.speedups[stage]
        reached = "reached" if speedup.low >= hoped else "not reached"
        said.append(
            f"{stage} at {keep} tokens: {speedup} times faster ({best.cell.method}, {best.cell.mode}); "
            f"{hoped:g} hoped for is {reached}, the paper has {paper:g}"
        )
    return said


if __name__ == "__main__":
    main()
