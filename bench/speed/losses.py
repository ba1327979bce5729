"""Time the losses of candidates by the fast path and through the model's own decoder, which any family has.

    python -m bench.speed.losses --candidates 24 --keep 16 --rounds 9

One scene and question of a shipped model, and candidates of random tokens. Both ways take turns in every
round, so other work on the machine affects them alike. The ratio is the median over the rounds.
"""

from __future__ import annotations

import time
from statistics import median
from unittest import mock

import click
import numpy as np

from bench.console import model_options, option, show_table
from bench.evaluation.opening import load_model
from compress.labels import forward
from compress.labels.fitness import AnswerLoss
from compress.micro.world import render, scene
from compress.models.loading import Anyres, quiet

QUESTION, ANSWER = "what color is the star ?", "red"


@click.command(help=__doc__)
@model_options
@option("--candidates", default=24, help="Number of candidates in a batch.")
@option("--keep", default=16, help="Visual tokens of a candidate.")
@option("--rounds", default=9, help="Number of rounds.")
def main(
    model: str, anyres: Anyres, device: str, dtype: str, candidates: int, keep: int, rounds: int
) -> None:
    quiet()
    mllm = load_model(model, device, dtype, anyres)
    if not forward.fast(mllm.decoder):
        raise ValueError(f"{mllm.name} has the slower way alone: choose a model whose layers are known")
    embedded = mllm.embed(render(scene("test", 0)), QUESTION, ANSWER)
    rng, count = np.random.default_rng(0), len(embedded.visual)
    kept = np.sort(np.stack([rng.permutation(count)[:keep] for _ in range(candidates)]), 1)
    by_fast = AnswerLoss(mllm, embedded)
    with mock.patch.object(forward, "LAYERS", ()):
        by_any = AnswerLoss(mllm, embedded)
    spent: list[tuple[float, float]] = []
    for _ in range(rounds + 1):  # the first one is a warm-up
        marks = [time.perf_counter()]
        for loss in by_fast, by_any:
            loss(kept)
            marks.append(time.perf_counter())
        spent.append((marks[1] - marks[0], marks[2] - marks[1]))
    fast, slow = zip(*spent[1:], strict=True)
    ratio = median(later / sooner for sooner, later in spent[1:])
    apart = float(np.abs(by_fast(kept) - by_any(kept)).max())
    ways = {"fast path": (median(fast), ""), "any decoder": (median(slow), f"{ratio:.1f}")}
    rows = [[way, f"{1000 * seconds:.1f}", times] for way, (seconds, times) in ways.items()]
    show_table(["way", f"ms for {candidates} candidates", "times slower"], rows)
    click.echo(f"largest difference of a loss: {apart:.1e}")


if __name__ == "__main__":
    main()
