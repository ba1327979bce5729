"""Measure the gain of batching: samples per second at several batch sizes, relative to single samples.

    python -m bench.speed.throughput --method fastv --keep 48 --batch 1,16

The model answers questions about the micro world greedily. Images are prepared in advance; tower, prefill and
decoding are timed. The sizes take turns in every round, so other load of the machine affects all of them
alike. The ratio is computed within a round.
"""

from __future__ import annotations

import time
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import click

from bench.console import model_options, option, progress, show_table, whole_numbers
from bench.evaluation.compressors import selector_for
from bench.evaluation.history import put_json
from bench.evaluation.opening import load_model
from bench.tasks import TASKS
from compress.attach.session import attach
from compress.base import Selector
from compress.models.loading import MLLM
from compress.samples import Sample

if TYPE_CHECKING:
    from compress.models.loading import Anyres

NEW_TOKENS = 4


def seconds(mllm: MLLM, samples: list[Sample], selector: Selector, keep: int, batch: int) -> float:
    """Seconds for all samples, `batch` at a time; the answers are on the CPU when the clock stops."""
    started = time.perf_counter()
    with attach(mllm, selector, keep):
        for start in range(0, len(samples), batch):
            part = samples[start : start + batch]
            images = [one.visual_at(mllm.image_side) for one in part]
            questions = [one.question for one in part]
            mllm.answer(images, questions, max_new_tokens=NEW_TOKENS)
    return time.perf_counter() - started


@click.command()
@option("--method", default="none", help="Method: NAME or NAME:option=value,... (evocomp list methods).")
@option("--keep", type=int, help="Visual tokens per decoder layer. Default: all.")
@option(
    "--batch",
    "sizes",
    default="1,16",
    callback=whole_numbers,
    help="Batch sizes, separated by commas; the first one is the baseline.",
)
@option("-n", "count", default=64, type=click.IntRange(1), help="Number of samples.")
@option("--rounds", default=7, type=click.IntRange(1), help="Timed rounds.")
@option("--out", type=click.Path(dir_okay=False, path_type=Path), help="JSON file for all figures.")
@model_options
def main(
    method: str, keep: int | None, sizes: list[int], count: int, rounds: int, out: Path | None,
    model: str, device: str, dtype: str, anyres: Anyres,
) -> None:  # fmt: skip
    """Time answers at several batch sizes; medians over the rounds."""
    selector = selector_for(method, model)
    mllm = load_model(model, device, dtype, anyres)
    samples = TASKS["gqa"]().micro(count)
    budget = mllm.visual_tokens if keep is None else keep
    taken: dict[int, list[float]] = {size: [] for size in sizes}
    with progress("measure", "rounds") as report:
        for number in range(rounds + 1):  # one warm-up round
            for size in sizes:
                measured = seconds(mllm, samples, selector, budget, size)
                if number:
                    taken[size].append(measured)
            report(number + 1, rounds + 1)
    first = taken[sizes[0]]
    ratios = {size: [a / b for a, b in zip(first, each, strict=True)] for size, each in taken.items()}
    show_table(
        ["batch", "samples/s", f"against {sizes[0]}", "lowest", "highest"],
        [
            [
                str(size), f"{count / median(taken[size]):.1f}", f"{median(ratios[size]):.2f}",
                f"{min(ratios[size]):.2f}", f"{max(ratios[size]):.2f}",
            ]
            for size in sizes
        ],
        f"{mllm.name}, {method}, keep {budget}, {count} samples",
    )  # fmt: skip
    if out:
        put_json(out, {"seconds": taken, "ratios": ratios})


if __name__ == "__main__":
    main()
