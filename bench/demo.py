"""The whole idea on the shipped micro model: search labels, train compressors, compare with other methods."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench.compare import Comparison, Entry, compare, load_tasks
from bench.compressors import selector_for, shipped
from bench.tasks import BENCHMARKS
from bench.tasks.mixture import labelled_samples, training_samples
from bench.validation import validator
from compress.evocomp import EvoComp
from compress.labels import Label, LabelConfig, LabelStore, label, read_labels, sample_key
from compress.models import MLLM
from compress.training import TrainConfig, TrainResult, train

KEEPS = (48, 32, 16)
OURS, PAPER, CONTROL = "evocomp+", "evocomp@0", "evocomp@0, random labels"
KINDS = {PAPER: "best", OURS: "attribution", CONTROL: "random"}
# The paper's recipe on hard labels; ours learns from the scores of all tokens: attribution has one for each.
RECIPES = {PAPER: TrainConfig(epochs=12), CONTROL: TrainConfig(epochs=12), OURS: TrainConfig(epochs=12)}

Report = Callable[[int, int], None]  # done, in all
Bar = Callable[[str, str], AbstractContextManager[Report]]  # title, unit


@dataclass(frozen=True)
class Demo:
    """What the demo made, and what it took from the package."""

    comparison: Comparison
    live: dict[str, LabelStore]  # label kind -> labels searched now
    reused: dict[str, int]  # label kind -> shipped labels used in training
    trained: dict[str, TrainResult]  # row name -> compressor trained now
    seconds: dict[str, float]  # stage -> wall time


def run(mllm: MLLM, out: Path, *, fresh: int, n: int, workers: int, bar: Bar) -> Demo:
    """Label `fresh` new samples per kind, train on those and the shipped ones, compare on `n` per task.

    Everything is written below `out`; labels and checkpoints found there are continued.
    """
    seconds: dict[str, float] = {}
    started = time.perf_counter()
    stores = {kind: read_labels(shipped(mllm.name, "labels", kind)) for kind in ("best", "attribution")}
    first = max(len(store) for store in stores.values())
    live: dict[str, LabelStore] = {}
    for kind in stores:
        with bar(f"label {fresh} samples: {kind}", "samples") as report:
            samples = training_samples(fresh, first)
            live[kind] = label(
                mllm, samples, out / "labels" / kind, LabelConfig(kind), workers=workers, progress=report
            )
    seconds["labels"] = time.perf_counter() - started
    merged: dict[str, list[Label]] = {kind: [*stores[kind], *live[kind]] for kind in stores}
    samples = labelled_samples(one.id for one in max(merged.values(), key=len))
    with bar(f"label {len(samples)} samples: random", "samples") as report:
        live["random"] = label(
            mllm, samples, out / "labels" / "random", LabelConfig("random"), workers=workers, progress=report
        )
    merged["random"] = list(live["random"])
    by_key = {sample_key(sample): sample for sample in samples}

    trained: dict[str, TrainResult] = {}
    for name, kind in KINDS.items():
        began = time.perf_counter()
        keep = int(live[kind].settings["keep"])
        chosen = [by_key[one.id] for one in merged[kind]]
        with bar(f"train {name} on {len(chosen)} labels", "steps") as report:
            trained[name] = train(
                mllm, merged[kind], chosen, out / "compressors" / kind, RECIPES[name],
                validate=validator(mllm, "textvqa", 60, keep),
                progress=_any_stage(report),
            )  # fmt: skip
        seconds[f"training of {name}"] = time.perf_counter() - began

    began = time.perf_counter()
    entries = [
        Entry(name, partial(selector_for, name, mllm.name))
        for name in ("random", "grid", "fastv", "visionzip")
    ]
    entries += [Entry(name, partial(EvoComp, made.compressor)) for name, made in trained.items()]
    with bar("compare", "cells") as report:
        found = compare(
            mllm, entries, KEEPS, load_tasks(BENCHMARKS, n), reference=OURS, batch=32, progress=report
        )
    seconds["comparison"] = time.perf_counter() - began
    reused = {kind: len(store) for kind, store in stores.items()}
    return Demo(found, live, reused, trained, seconds)


def _any_stage(report: Report) -> Callable[[str, int, int], None]:
    return lambda stage, done, total: report(done, total)
