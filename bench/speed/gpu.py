"""One command for a GPU: the shape of LLaVA-NeXT-7B, 2880 tokens to 640, 320 and 160, every method that can.

    python -m bench.speed.gpu --out gpu

Two runs, each resumable and a folder of its own: `eager`, all methods as they are evaluated; and `fast`, some
methods that act before the decoder, with fixed caches, compiled, and as CUDA graphs. Then what was hoped for:
at the smallest budget, prefill with selection six times faster than vanilla and the whole answer four times
(paper, Figure 4, on an A100: 4.1 and 2.6). Weights are random: a latency does not depend on them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from bench.console import OutFolder, progress, say, whole_numbers
from bench.evaluation.opening import shaped
from bench.latency.report import LatencyReport, in_words, read_accuracy
from bench.latency.run import RANDOM, Conditions, rivals, run
from compress.models.shapes import random_inputs
from evosearch.registry import names

HOPED = {"prefill with selection": (6.0, 4.1), "total": (4.0, 2.6)}  # times faster: hoped for, in the paper


@click.command()
@click.option("--out", required=True, type=OutFolder())
@click.option("--shape", default="llava-next-7b", show_default=True)
@click.option("--device", default="cuda", show_default=True)
@click.option("--dtype", default="bfloat16", show_default=True)
@click.option("--depth-slice", type=int, help="So many decoder layers only, for a small machine.")
@click.option("--keep", "keeps", default="640,320,160", show_default=True, callback=whole_numbers)
@click.option("--methods", default="all", show_default=True, help="Of the eager run.")
@click.option("--fast", default="evocomp", show_default=True, help="Methods of the fast run.")
@click.option("--modes", default="static,compiled,graphs", show_default=True, help="Of the fast run.")
@click.option("--text", default=40, show_default=True, type=click.IntRange(2))
@click.option(
    "--new", "steps", default=8, show_default=True, type=click.IntRange(1), help="Tokens to decode."
)
@click.option("--repetitions", default=30, show_default=True, type=click.IntRange(2))
@click.option("--warmup", default=3, show_default=True, type=click.IntRange(0))
@click.option("--accuracy", type=click.Path(file_okay=False, path_type=Path), help="Of a comparison.")
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
    """For every stage that something was hoped of: the fastest method at this budget, and whether it does."""
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
