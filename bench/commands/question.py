"""`evocomp bench question`: the dependence of a method's kept tokens on the question."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
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
@option(
    "--labels", multiple=True, type=click.Path(path_type=Path),
    help="Also measure the labels in this store of the model's mixture; may be repeated.",
)  # fmt: skip
@keep_option("Budget in visual tokens")
@option("--task", default="scenes", help="Task with several questions about each image.")
@option("--split", default="val", help="Split of the task.")
@option("--data", help="Folder of benchmarks (docs/benchmarks.md). Default: the miniature.")
@option("-n", "count", type=Count(2), default=240, help="Number of questions.")
@model_options
@as_json
def question(
    methods: str, compressor: str | None, labels: tuple[Path, ...], keep: Keep | None, task: str, split: str,
    data: str | None, count: int, model: str, device: str, dtype: str, anyres: Anyres, machine: bool,
) -> None:  # fmt: skip
    """Measure how much the tokens that methods keep depend on the question.

    \b
    Example:
      evocomp bench question --methods evocomp,words,cover --keep 16 -n 24
    """
    from baselines import METHODS
    from bench.evaluation.compressors import selectors_for
    from bench.evaluation.question import labelled, sensitivity
    from bench.report.question import by_family, table
    from bench.tasks.mixture import labelled_samples
    from compress.labels import read_labels

    stores = [(str(folder), read_labels(folder)) for folder in labels]
    named = (
        [name for name, method in METHODS.items() if name != "none" and not method.video]
        if methods == "all"
        else specs(methods)
    )
    selectors = selectors_for(named, model, compressor)
    ((_, samples),) = open_tasks(task, count, data, None, split, model=model).items()
    mllm = load_model(model, device, dtype, anyres)
    kept = budget(keep, mllm)
    found = {}
    for folder, store in stores:
        store.refuse_other(mllm.name, mllm.fingerprint(), mllm.visual_tokens)
        searched = labelled_samples(store.ids.to_pylist())
        found[f"{folder} (labels)"] = labelled(store.labels, searched, mllm.visual_tokens)
    for name, selector in selectors.items():
        with progress(name, "questions") as report:
            found[name] = sensitivity(mllm, selector, kept, samples, progress=report)
    if machine:
        show_json({name: asdict(one) for name, one in found.items()})
        return
    title = f"{model}, {kept} visual tokens, {task} ({split})"
    click.echo(table(found, title).text())
    if any(one.families for one in found.values()):
        click.echo(by_family(found, title).text())


COMMANDS = {"question": question}
