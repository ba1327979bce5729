"""Compare results of a device with those of the CPU: the tokens that methods keep, and the answers.

    python -m bench.speed.equal --device cuda

Both run a shipped model in single precision on the same questions. Rounding differs between devices, so a
token at the edge of a budget may change; the table gives the number of such tokens.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import torch

from bench.console import model_options, option, progress, show_table
from bench.evaluation.compressors import selector_for
from bench.evaluation.history import put_json
from bench.evaluation.opening import load_model
from bench.latency.run import rivals
from bench.tasks import TASKS
from compress.attach.session import attach
from compress.keep import read_keep
from compress.micro.worlds import world_of
from compress.models.loading import MLLM, Anyres
from compress.samples import Sample


@torch.no_grad()
def answered(
    mllm: MLLM, method: str, model: str, keep: str, samples: list[Sample]
) -> tuple[list[str], list[set[int]]]:
    """Answers, and the tokens of each image after the last stage."""
    images = [one.image_at(mllm.image_side) for one in samples]
    with attach(mllm, selector_for(method, model), read_keep(keep)) as trace:
        said = mllm.answer(images, [one.question for one in samples])
    return said, [set(record.kept[max(record.kept)]) if record.kept else set() for record in trace.samples]


@click.command()
@option("--methods", default="all", help="Methods, separated by commas.")
@option("--keep", default="1/9", help="Budget: a count of visual tokens or a share of them.")
@option("-n", "count", default=16, type=click.IntRange(1), help="Number of questions.")
@option("--out", type=click.Path(dir_okay=False, path_type=Path), help="JSON file for all figures.")
@model_options
def main(
    methods: str, keep: str, count: int, out: Path | None, model: str, anyres: Anyres, device: str,
    dtype: str,
) -> None:  # fmt: skip
    """Compare a device with the CPU: kept tokens and answers of every method."""
    here, there = (load_model(model, place, dtype, anyres) for place in ("cpu", device))
    samples = TASKS["gqa"]().micro(count, world=world_of(model))
    found: dict[str, Any] = {}
    chosen = rivals(methods, model, None)
    with progress("compare", "methods") as report:
        for number, method in enumerate(chosen):
            try:
                (said, kept), (other, chose) = (
                    answered(mllm, method, model, keep, samples) for mllm in (here, there)
                )
            except ValueError as problem:
                found[method] = {"left out": str(problem)}
            else:
                pairs = list(zip(kept, chose, strict=True))
                found[method] = {
                    "answers": sum(a == b for a, b in zip(said, other, strict=True)) / len(said),
                    "tokens": sum(len(a & b) for a, b in pairs) / max(1, sum(len(a) for a, _ in pairs)),
                }
            report(number + 1, len(chosen))
    rows = [
        [name, f"{100 * one['tokens']:.2f} %", f"{100 * one['answers']:.1f} %"]
        for name, one in found.items() if "tokens" in one
    ]  # fmt: skip
    show_table(["method", "equal tokens", "equal answers"], rows, f"{model} on {device} against cpu")
    if out:
        put_json(out, found)


if __name__ == "__main__":
    main()
