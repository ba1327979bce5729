"""`evocomp eval`: one method on benchmarks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from bench.commands.common import (
    as_json,
    budget,
    load_model,
    match_option,
    model_options,
    names,
    progress,
    show_json,
    show_table,
)

if TYPE_CHECKING:
    from bench.budget import Match


@click.command("eval")
@click.option(
    "--method", default="none", show_default=True, help="NAME or NAME:option=value,... (evocomp methods)."
)
@click.option("--compressor", help="Folder of a trained compressor; the shipped one by default.")
@click.option("--keep", type=int, help="Budget in visual tokens; a ninth by default.")
@match_option
@click.option(
    "--tasks", "wanted", default="all", show_default=True, help="Names with commas (evocomp tasks)."
)
@click.option("-n", "count", default=200, show_default=True, type=click.IntRange(1), help="Samples per task.")
@click.option("--split", type=click.Choice(["test", "val"]), default="test", show_default=True)
@click.option("--batch", default=16, show_default=True, type=click.IntRange(1))
@model_options
@as_json
def evaluate(
    method: str, compressor: str | None, keep: int | None, match: Match, wanted: str, count: int,
    split: str, batch: int, model: str, device: str, dtype: str, machine: bool,
) -> None:  # fmt: skip
    """Score a method: greedy answers, the benchmark's metric, visual tokens per layer as measured.

    \b
    Example:
      evocomp eval --method visionzip --keep 32 --tasks pope,gqa
    """
    from bench.compare import load_tasks
    from bench.compressors import selector_for
    from bench.evaluate import evaluate as run
    from bench.tasks import BENCHMARKS

    selector = selector_for(method, model, compressor)
    data = load_tasks(names(wanted, "--tasks", BENCHMARKS), count, split)
    mllm = load_model(model, device, dtype)
    keep = budget(keep, mllm)
    rows = []
    for task, samples in data.items():
        with progress(task.name) as report:
            rows.append(run(mllm, task, samples, selector, keep, batch=batch, match=match, progress=report))
    if machine:
        show_json(
            [
                {
                    "method": method, "keep": keep, "task": o.task, "score": o.score,
                    "n": len(o.predictions), "tokens": o.tokens, "left": o.left, "entering": o.entering,
                    "prefill_flops": o.ledger.prefill_flops, "seconds": o.seconds,
                }
                for o in rows
            ]
        )  # fmt: skip
        return
    metrics = {task.name: task.metric for task in data}
    show_table(
        ["task", "metric", "score", "n", "tokens/layer", "left", "seconds"],
        [
            [
                o.task, metrics[o.task], f"{o.score:.1f}", str(len(o.predictions)),
                f"{o.tokens:.1f}", f"{o.left:.1f}", f"{o.seconds:.1f}",
            ]
            for o in rows
        ],
        f"{method}, keep {keep}",
    )  # fmt: skip


COMMANDS = {"eval": evaluate}
