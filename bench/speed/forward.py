"""Run the published architectures of all families once each: untouched, with all tokens kept, and compressed.

    python -m bench.speed.forward --device cuda --dtype bfloat16

Weights are random. For each shape, the table has the largest difference of logits if a stage keeps every
token (0 if they are bitwise equal), and the speed-up of the prefill with a method.
"""

from __future__ import annotations

import time
from pathlib import Path
from statistics import median
from typing import Any

import click
import torch

from baselines import METHODS
from bench.console import option, progress, show_table
from bench.evaluation.history import put_json
from bench.evaluation.opening import shaped
from compress.attach.session import attach
from compress.base import Selection, Selector, View
from compress.keep import read_keep
from compress.models.loading import MLLM
from compress.models.shapes import SHAPES, random_inputs
from evosearch.registry import names, pick


class Every(Selector):
    """Keeps all tokens, through the complete code path of a method that drops some."""

    adaptive = True

    def schedule(self, tokens: int, keep: int, layers: int) -> dict[int, int]:
        return {self.depth: 0}

    def select(self, view: View, keep: int) -> Selection:
        return Selection(torch.arange(len(view.hidden), device=view.hidden.device))


def wait(mllm: MLLM) -> None:
    if mllm.model.device.type == "cuda":
        torch.cuda.synchronize(mllm.model.device)


@torch.no_grad()
def measured(
    mllm: MLLM, selector: Selector, keep: str, text: int, rounds: int, frames: int
) -> dict[str, Any]:
    """Results of one shape: tokens, seconds of each round, and largest difference of logits with all kept."""
    inputs = random_inputs(mllm, text, frames=frames)

    def prefill() -> Any:
        return mllm.model(**inputs, use_cache=True, logits_to_keep=1).logits

    untouched = prefill()
    with attach(mllm, Every()):
        difference = float((prefill() - untouched).abs().max())
    seconds: dict[str, list[float]] = {"untouched": [], "compressed": []}
    tokens: dict[str, float] = {}
    for number in range(rounds + 1):  # one warm-up round
        for way in seconds:
            acting = METHODS["none"]() if way == "untouched" else selector
            with attach(mllm, acting, read_keep(keep)) as trace:
                wait(mllm)
                started = time.perf_counter()
                prefill()
                wait(mllm)
            if number:
                seconds[way].append(time.perf_counter() - started)
            tokens[way] = trace.samples[0].entering[-1]
    return {"tokens": tokens, "seconds": seconds, "difference": difference}


@click.command()
@option("--shapes", default="all", help="Published architectures, separated by commas.")
@option("--depth-slice", type=int, help="Number of decoder layers to build. Default: all.")
@option("--method", default="divprune", help="Method: NAME or NAME:option=value,... (evocomp list methods).")
@option("--keep", default="1/9", help="Budget: a count of visual tokens or a share of them.")
@option("--frames", default=0, type=click.IntRange(0), help="Frames of a video in place of an image.")
@option("--text", default=40, type=click.IntRange(2), help="Text tokens of the prompt.")
@option("--rounds", default=5, type=click.IntRange(1), help="Timed rounds.")
@option("--device", default="cuda", help="Device of the model.")
@option("--dtype", default="bfloat16", help="Number type of the weights.")
@option("--out", type=click.Path(dir_okay=False, path_type=Path), help="JSON file for all figures.")
def main(
    shapes: str, depth_slice: int | None, method: str, keep: str, frames: int, text: int, rounds: int,
    device: str, dtype: str, out: Path | None,
) -> None:  # fmt: skip
    """Run every family's published shape; medians over the rounds."""
    found: dict[str, Any] = {}
    chosen = names(shapes, "--shapes", list(SHAPES))
    with progress("measure", "shapes") as report:
        for number, shape in enumerate(chosen):
            mllm = shaped(shape, device, dtype, depth_slice)
            if frames and not mllm.video_arguments:
                found[shape] = {"left out": "it reads no videos"}
            else:
                found[shape] = measured(mllm, pick(METHODS, method, "method"), keep, text, rounds, frames)
            del mllm
            report(number + 1, len(chosen))
    rows = [
        [shape, f"{one['tokens']['untouched']:g}", f"{one['tokens']['compressed']:g}",
         *(f"{1000 * median(one['seconds'][way]):.1f}" for way in ("untouched", "compressed")),
         f"{median(a / b for a, b in zip(*one['seconds'].values(), strict=True)):.2f}",
         f"{one['difference']:g}"]
        for shape, one in found.items() if "seconds" in one
    ]  # fmt: skip
    head = ["shape", "visual tokens", "kept", "prefill ms", f"{method} ms", "ratio", "keep all differs by"]
    show_table(head, rows, f"{device}, {dtype}, keep {keep}")
    if out:
        put_json(out, found)


if __name__ == "__main__":
    main()
