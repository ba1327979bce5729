"""From methods, budgets and questions to a report; starts a server if none is given."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from bench.evaluation.compressors import selector_for, shipped, takes_compressor
from bench.evaluation.environment import environment
from bench.evaluation.history import now
from bench.serving.choices import runs
from bench.serving.export import servable
from bench.serving.report import ServingReport, report
from bench.serving.run import Load, cells_of, run
from bench.serving.server import executable, serving
from bench.serving.settings import NONE
from compress.keep import Keep, count_of
from compress.models.loading import MODELS, outline
from compress.progress import Progress
from compress.samples import Sample
from evosearch.registry import parse, specs


def measure(
    wanted: str, keeps: Sequence[Keep], load: Load, model: str, samples: Sequence[Sample], *,
    url: str | None = None, program: str | None = None, options: Sequence[str] = (),
    command: str = "", progress: Progress | None = None,
) -> ServingReport:  # fmt: skip
    """Measure a server of `model`, started here unless `url` is given.

    ValueError, before anything is started, for methods that cannot run in the engine.
    """
    if not load.users and not load.rates:
        raise ValueError("nothing is asked: give --users, --rates or both")
    methods = {name: full_name(name, model) for name in specs(wanted) if name != NONE}
    with ExitStack() as stack:
        name = model
        if url is None:
            program = executable(program)
            scratch = Path(stack.enter_context(TemporaryDirectory()))
            name = servable(model, scratch)
            counts = _check(list(methods.values()), keeps, model)
            url = stack.enter_context(serving(program, name, list(methods.values()), options))
        else:
            counts = list(keeps)
        questions = [(sample.image, sample.question) for sample in samples]
        cells = cells_of(list(methods), counts, load)
        found = run(url, name, cells, questions, load, progress, methods)
    facts: dict[str, Any] = {
        "model": model, "requests per line and round": load.requests, "tokens of an answer": load.new,
        "warm-up": "one round, not counted",
        "images": "one pixel of each says a number, so that no cache knows it",
    }  # fmt: skip
    return report(found, facts | environment() | {"date": now(), "command": command})


def full_name(method: str, model: str) -> str:
    """The method's name on the server, with the folder of the compressor that is shipped for the model."""
    if model not in MODELS or not takes_compressor(method):
        return method
    folder = shipped(model, "compressor", parse(method)[0])
    return f"{method}{',' if ':' in method else ':'}compressor={folder}"


def _check(methods: Sequence[str], keeps: Sequence[Keep], model: str) -> list[Keep]:
    """Budgets for the server's requests; ValueError for budgets out of range and methods that cannot run."""
    source = str(MODELS.get(model, model))
    mllm = outline(source)
    for method in methods:
        for keep in keeps:
            runs(mllm, selector_for(method, model), keep)
    return [count_of(keep, mllm.visual_tokens) if mllm.one_size else keep for keep in keeps]
