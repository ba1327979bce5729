"""Time the selection of every method, in milliseconds and as a share of the prefill that it shortens.

    python -m bench.speed.selection --keep 48

One scene and question, batch 1. Methods take turns in every round, so other load of the machine affects all
of them alike. Selection is the time of `select` and `merge` with the signals that they read (attention rows,
keys). Gathering the kept rows is not included, because every method does it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import click
import torch

from baselines import METHODS
from bench.console import model_options, option, progress, say, show_table
from bench.evaluation.compressors import selector_for
from bench.evaluation.history import put_json
from bench.evaluation.opening import load_model
from compress.attach.session import attach
from compress.base import Selector, TowerSelector
from compress.budget import plan
from compress.micro.world import render, scene
from compress.models.loading import MLLM, Anyres
from evosearch.registry import names

QUESTION = "what color is the star ?"


class Stopwatch:
    """Measures seconds spent in the methods of watched objects."""

    def __init__(self, wait: Callable[[], None]):
        self.wait, self.seconds = wait, 0.0

    def timed(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def measured(*args: Any) -> Any:
            self.wait()
            started = time.perf_counter()
            result = call(*args)
            self.wait()
            self.seconds += time.perf_counter() - started
            return result

        return measured

    def watch(self, selector: Selector) -> Selector:
        inside = isinstance(selector, TowerSelector)  # only these merge in the tower
        for name in ("select", "merge") if inside else ("select",):
            setattr(selector, name, self.timed(getattr(selector, name)))
        return selector


@torch.no_grad()
def measure(mllm: MLLM, selector: Selector, watch: Stopwatch, inputs: Any, keep: int) -> tuple[float, float]:
    """Seconds of the whole prefill, including the tower, and of the selection in it."""
    watch.seconds = 0.0
    with attach(mllm, selector, keep):
        watch.wait()
        started = time.perf_counter()
        mllm.model(**inputs)
        watch.wait()
        return time.perf_counter() - started, watch.seconds


@click.command()
@option("--methods", default="all", help="Methods, separated by commas.")
@option("--keep", default=48, help="Visual tokens per decoder layer.")
@option("--rounds", default=50, type=click.IntRange(2), help="Timed rounds.")
@option("--out", type=click.Path(dir_okay=False, path_type=Path), help="JSON file for all figures.")
@model_options
def main(
    methods: str, keep: int, rounds: int, out: Path | None, model: str, device: str, dtype: str,
    anyres: Anyres,
) -> None:  # fmt: skip
    """Time the selection of every method; medians over the rounds."""
    mllm = load_model(model, device, dtype, anyres)
    watch = Stopwatch(torch.cuda.synchronize if device.startswith("cuda") else lambda: None)
    selectors: dict[str, Selector] = {}
    for name in names(methods, "--methods", [name for name, method in METHODS.items() if not method.video]):
        selector = selector_for(name, model)
        try:
            plan(selector, mllm.visual_tokens, keep, mllm.layers)
            with attach(mllm, selector, keep):
                pass
        except ValueError as problem:
            say(f"{name} is left out: {problem}")
            continue
        selectors[name] = watch.watch(selector)
    inputs = mllm.prepare([render(scene("test", 0))], [QUESTION])
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in selectors}
    with progress("measure", "rounds") as report:
        for number in range(rounds + 2):  # two warm-up rounds
            for name, selector in selectors.items():
                taken = measure(mllm, selector, watch, inputs, keep)
                if number >= 2:
                    seconds[name].append(taken)
            report(number + 1, rounds + 2)
    figures = {
        name: tuple(1000 * median(column) for column in zip(*taken, strict=True))
        for name, taken in seconds.items()
    }
    show_table(
        ["method", "selection, ms", "prefill, ms", "share, %"],
        [
            [name, f"{chosen:.2f}", f"{whole:.1f}", f"{100 * chosen / whole:.0f}"]
            for name, (whole, chosen) in sorted(figures.items(), key=lambda item: item[1][1])
        ],
    )
    if out:
        put_json(out, {"seconds": seconds, "medians_ms": figures})


if __name__ == "__main__":
    main()
