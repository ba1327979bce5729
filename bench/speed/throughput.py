"""What batches gain: samples per second at several batch sizes, as a ratio to one sample at a time.

    python -m bench.speed.throughput --method fastv --keep 48 --batch 1,16

Greedy answers to questions of the micro world, images prepared, tower, prefill and decoding included. Sizes
take turns in every round, so that what else the machine does falls on all of them alike; the ratio is taken
within a round.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import click

from bench.console import model_options, progress, show_table, whole_numbers
from bench.evaluation.compressors import selector_for
from bench.evaluation.opening import load_model
from bench.tasks import TASKS
from compress.attach.session import attach
from compress.base import Selector
from compress.files import replacing
from compress.models.loading import MLLM
from compress.samples import Sample

if TYPE_CHECKING:
    from compress.models.loading import Anyres

NEW_TOKENS = 4


def seconds(mllm: MLLM, samples: list[Sample], selector: Selector, keep: int, batch: int) -> float:
    """What all samples take, `batch` at a time; the answers are on the CPU when the clock stops."""
    started = time.perf_counter()
    with attach(mllm, selector, keep):
        for start in range(0, len(samples), batch):
            part = samples[start : start + batch]
            images = [one.image_at(mllm.image_side) for one in part]
            questions = [one.question for one in part]
            mllm.answer(images, questions, max_new_tokens=NEW_TOKENS)
    return time.perf_counter() - started


@click.command()
@click.option("--method", default="none", show_default=True, help="NAME or NAME:option=value,...")
@click.option("--keep", type=int, help="Visual tokens per decoder layer; all by default.")
@click.option(
    "--batch", "sizes", default="1,16", show_default=True, callback=whole_numbers,
    help="Sizes with commas; the first is what others are held against.",
)  # fmt: skip
@click.option("-n", "count", default=64, show_default=True, type=click.IntRange(1), help="Samples.")
@click.option("--rounds", default=7, show_default=True, type=click.IntRange(1))
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="JSON file for all figures.")
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
        for number in range(rounds + 1):  # one to warm up
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
        with replacing(out) as file:
            file.write_text(json.dumps({"seconds": taken, "ratios": ratios}, indent=1))


if __name__ == "__main__":
    main()
