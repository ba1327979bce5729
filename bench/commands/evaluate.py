"""`evocomp eval`: one method on benchmarks."""

from __future__ import annotations

from collections.abc import Sequence
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bench.commands.inputs import open_tasks
from bench.commands.options import (
    Crew,
    as_json,
    batch_option,
    data_options,
    engine_options,
    keep_option,
    match_option,
    source_option,
)
from bench.console import OutFolder, model_options, option, progress, say, show_json, show_table
from bench.evaluation.opening import Loader, budget, by_source, load_model

if TYPE_CHECKING:
    from bench.evaluation.evaluate import Outcome
    from bench.tasks import Task
    from compress.budget import Match
    from compress.keep import Keep
    from compress.models.loading import Anyres


@click.command("eval")
@option(
    "--method",
    default="none",
    help="Method: NAME or NAME:option=value,... (evocomp list methods).",
)
@option("--compressor", help="Folder or hub name of a trained compressor. Default: the shipped one.")
@keep_option("Budget in visual tokens")
@match_option
@data_options
@option(
    "--submission",
    type=OutFolder(),
    help="Folder for submission files, in the format of each benchmark's server or tool.",
)
@source_option
@batch_option
@engine_options
@model_options
@as_json
def evaluate(
    method: str, compressor: str | None, keep: Keep | None, match: Match, tasks: str,
    count: int | None, data: str | None, protocol: str | None, split: str | None, submission: Path | None,
    source: str | None, batch: int | None, crew: Crew, model: str, device: str, dtype: str, anyres: Anyres,
    machine: bool,
) -> None:  # fmt: skip
    """Score one method on benchmarks, and measure its visual tokens per layer.

    Results do not depend on the workers. With --devices or --engine ray, every worker loads the model onto
    its device. The command itself loads it onto the CPU, and does not run it.

    \b
    Example:
      evocomp eval --method visionzip --keep 32 --tasks pope,gqa
    """
    from bench.evaluation.batches import Batches
    from bench.evaluation.compressors import selector_for
    from bench.evaluation.divided import evaluate_all
    from bench.evaluation.protocol import of_entry
    from compress.files import replacing

    selector = selector_for(method, source or model, compressor)
    opened = open_tasks(tasks, count, data, protocol, split, model=model, labelled=submission is None)
    if submission:
        check_submission(list(opened), count, data)
    loads = Loader(model, crew.device, dtype, anyres) if crew.engine.elsewhere else None
    mllm = load_model(model, "cpu" if loads else device, dtype, anyres)
    keep = budget(keep, mllm)
    other = load_model(source, device, dtype, anyres) if source else None
    facts = of_entry(selector, mllm, other)
    name = by_source(method, source) if source else method
    batches = Batches.of(batch, loads.kind if loads else mllm.model.device.type)
    with progress("eval", "answers") as report:
        found = evaluate_all(
            mllm, opened, selector, keep, batch=batches, match=match, source=other, engine=crew.engine,
            workers=crew.workers, loads=loads, progress=report,
        )  # fmt: skip
    rows, written = list(found.items()), []
    if submission and data:
        submission.mkdir(parents=True, exist_ok=True)
        for task, outcome in rows:
            file, content = task.submission(opened[task], outcome.predictions, data)
            with replacing(submission / file) as part:
                part.write_bytes(content)
            written.append(str(submission / file))
    if machine:
        show_json(
            [
                {
                    "method": name, "choices": facts["choices"], "indices_from": facts.get("indices from"),
                    "keep": keep, "batch": o.batch, "task": o.task, "protocol": task.protocol,
                    "split": task.part if data else split or "test", "metric": task.metric,
                    "score": number(o.score), "subscores": {k: number(v) for k, v in o.subscores.items()},
                    "n": len(o.predictions), "tokens": o.tokens, "left": o.left, "entering": o.entering,
                    "prefill_flops": o.cost.prefill_flops, "seconds": o.seconds,
                }
                for task, o in rows
            ]
        )  # fmt: skip
        return
    show_table(
        ["task", "split", "metric", "score", "n", "tokens/layer", "left", "seconds", "also"],
        [
            [
                o.task, task.part if data else split or "test", task.metric, shown(o.score),
                str(len(o.predictions)), f"{o.tokens:.1f}", f"{o.left:.1f}", f"{o.seconds:.1f}",
                ", ".join(f"{part} {shown(o.subscores[part])}" for part in beside(task, o)),
            ]
            for task, o in rows
        ],
        f"{name}, keep {keep}, protocol {', '.join({task.protocol: 0 for task, *_ in rows})}",
    )  # fmt: skip
    for choice in facts["choices"]:
        click.echo(f"on this model: {choice}")
    for path in written:
        say(f"to hand in: {path}")


def check_submission(tasks: Sequence[Task], count: int | None, data: str | None) -> None:
    """ValueError, before any computation, if a server or tool would not accept the submission."""
    if data is None or count is not None:
        raise ValueError(
            "--submission needs --data and no -n: it holds the answers to all questions of a split"
        )
    if silent := [task.name for task in tasks if not task.submits]:
        raise ValueError(
            f"{' and '.join(silent)}: no submission is possible, because the labels are public; choose "
            f"other --tasks"
        )


def beside(task: Task, outcome: Outcome) -> list[str]:
    """Names of the sub-scores that are shown beside the score."""
    return [part for part in task.headline if part in outcome.subscores]


def number(value: float) -> float | None:
    """The score, or None for NaN: JSON has no NaN, and a score without labels is null."""
    return None if isnan(value) else value


def shown(value: float) -> str:
    return "-" if isnan(value) else f"{value:.1f}"


COMMANDS = {"eval": evaluate}
