"""`evocomp bench question`: whether a method's choice follows the question."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from bench.commands.inputs import open_tasks
from bench.commands.options import Count, as_json, keep_option
from bench.console import model_options, option, progress, show_json
from bench.evaluation.opening import budget, load_model
from evosearch.registry import specs

if TYPE_CHECKING:
    from compress.keep import Keep
    from compress.models.loading import Anyres


@click.command("question")
@option(
    "--methods",
    default="evocomp,evocomp+,words,cover,fastv",
    help="Methods, separated by commas: NAME[:option=value,...], or all (evocomp list methods).",
)
@option("--compressor", help="Folder or hub name of a trained compressor. Default: the shipped one.")
@keep_option("Budget in visual tokens")
@option("--task", default="scenes", help="Task with several questions about each image.")
@option("--split", default="val", help="Split of the task.")
@option("--data", help="Folder of benchmarks (docs/benchmarks.md). Default: the miniature.")
@option("-n", "count", type=Count(2), default=240, help="Number of questions.")
@model_options
@as_json
def question(
    methods: str, compressor: str | None, keep: Keep | None, task: str, split: str, data: str | None,
    count: int, model: str, device: str, dtype: str, anyres: Anyres, machine: bool,
) -> None:  # fmt: skip
    """Measure how much the tokens that methods keep depend on the question.

    \b
    Example:
      evocomp bench question --methods evocomp,words,cover --keep 16 -n 24
    """
    from baselines import METHODS
    from bench.evaluation.compressors import selector_for, takes_compressor
    from bench.evaluation.question import sensitivity
    from bench.report.question import table

    named = [name for name in METHODS if name != "none"] if methods == "all" else specs(methods)
    selectors = {
        spec: selector_for(spec, model, compressor if takes_compressor(spec) else None) for spec in named
    }
    ((_, samples),) = open_tasks(task, count, data, None, split, model=model).items()
    mllm = load_model(model, device, dtype, anyres)
    kept = budget(keep, mllm)
    found = {}
    for name, selector in selectors.items():
        with progress(name, "questions") as report:
            found[name] = sensitivity(mllm, selector, kept, samples, progress=report)
    if machine:
        show_json({name: asdict(one) for name, one in found.items()})
        return
    click.echo(table(found, f"{model}, {kept} visual tokens, {task} ({split})").text())


COMMANDS = {"question": question}
