"""The demo: search labels, train compressors and compare them with other methods, on a shipped model."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from bench.evaluation.compare import Comparison, Entry, compare
from bench.evaluation.compressors import selector_for, shipped
from bench.tasks import BENCHMARKS
from bench.tasks.load import load_tasks
from bench.tasks.mixture import labelled_samples, training_samples
from compress.base import Selector
from compress.compressor.evocomp import EvoComp
from compress.compressor.evocomp_plus import EvoCompPlus
from compress.compressor.network import Compressor
from compress.labels import Label, LabelConfig, LabelStore, label, read_labels, sample_key
from compress.micro.worlds import BUSY, MICRO, world_of
from compress.models.loading import MLLM
from compress.parallel.workers import each
from compress.progress import Bar
from compress.samples import Sample
from compress.training.config import preset
from compress.training.run import TrainConfig, TrainResult, train

LIVE = 100_000  # number of the first sample that is labelled live, after all shipped labels
PAPER, RANDOM = "best", "random"  # sets of training labels besides our own


@dataclass(frozen=True)
class Script:
    """The settings of the demo for one model.

    `labels` are searched live, one store per set; the package ships more labels of the set `ours` and of the
    paper's set. `recipes` are the training settings per set. `rows` are the methods that use a trained
    compressor: name -> set, method.
    """

    keeps: tuple[int, ...]
    labels: Mapping[str, LabelConfig]
    recipes: Mapping[str, TrainConfig]
    rows: Mapping[str, tuple[str, Callable[[Compressor], Selector]]]
    controls: tuple[str, ...]
    ours: str
    reference: str = "evocomp+"


# The paper's labels and their control are trained with the paper's loss, which needs many small steps.
SLOW = TrainConfig(epochs=8, batch=16)
# Depth 1 of 12 layers is the paper's 2 of 32 (EvoComp@2).
SCRIPTS = {
    MICRO.name: Script(
        keeps=(48, 32, 16),
        labels={
            PAPER: LabelConfig("best"),
            RANDOM: LabelConfig("random"),  # the control: a random token of each of the paper's groups
            "attribution": LabelConfig("attribution"),
        },
        recipes={
            PAPER: SLOW, RANDOM: SLOW, "attribution": preset("evocomp+"),
        },
        rows={
            "evocomp+": ("attribution", EvoCompPlus),
            "evocomp+@1": ("attribution", partial(EvoCompPlus, layer=2)),
            "evocomp@1": (PAPER, partial(EvoComp, depth=1)),
            "evocomp@0": (PAPER, EvoComp),
            "evocomp@0, random labels": (RANDOM, EvoComp),
        },
        controls=("random", "grid", "farthest", "cover", "fastv", "visionzip"),
        ours="attribution",
    ),
    BUSY.name: Script(
        keeps=(64,),
        labels={
            PAPER: LabelConfig("best"), RANDOM: LabelConfig("random"),
            "attribution": LabelConfig("attribution"),
        },
        # Few epochs: the whole demo should take ten minutes on two cores.
        recipes={
            PAPER: replace(SLOW, epochs=6), RANDOM: replace(SLOW, epochs=6),
            "attribution": replace(preset("evocomp+"), epochs=4),
        },
        rows={
            "evocomp+": ("attribution", EvoCompPlus),
            "evocomp@0": (PAPER, EvoComp),
            "evocomp@0, random labels": (RANDOM, EvoComp),
        },
        controls=("random", "cover", "words", "fastv", "visionzip"),
        ours="attribution",
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Demo:
    """The results of the demo, and the number of shipped labels that it used."""

    comparison: Comparison
    live: dict[str, LabelStore]  # set of labels -> labels searched now
    reused: dict[str, int]  # set of labels -> shipped labels used in training
    trained: dict[str, TrainResult]  # set of labels -> compressor trained now
    seconds: dict[str, float]  # stage -> wall time


def run(mllm: MLLM, out: Path, *, fresh: int, n: int, workers: int, bar: Bar) -> Demo:
    """Label `fresh` samples per searched set, train on these and the shipped ones, compare on `n` per task.

    Everything is written below `out`. Labels, checkpoints and cells found there are resumed.
    """
    world = world_of(mllm.name)
    if world.name not in SCRIPTS:
        raise ValueError(f"there is no demo of {mllm.name}: choose a model of {' or '.join(SCRIPTS)}")
    script = SCRIPTS[world.name]
    seconds: dict[str, float] = {}
    started = time.perf_counter()
    stores = {kind: read_labels(shipped(mllm.name, "labels", kind)) for kind in (PAPER, script.ours)}
    live: dict[str, LabelStore] = {}
    for kind in stores:
        with bar(f"label {fresh} samples: {kind}", "samples") as report:
            samples = training_samples(fresh, LIVE, world)
            live[kind] = label(
                mllm, samples, out / "labels" / kind, script.labels[kind], workers=workers, progress=report
            )
    merged: dict[str, list[Label]] = {kind: [*stores[kind], *live[kind]] for kind in stores}
    samples = labelled_samples(one.id for one in merged[PAPER])
    with bar(f"label {len(samples)} samples: random", "samples") as report:
        live[RANDOM] = label(
            mllm, samples, out / "labels" / RANDOM, script.labels[RANDOM], workers=workers, progress=report
        )
    merged[RANDOM] = list(live[RANDOM])
    seconds["labels"] = time.perf_counter() - started

    began = time.perf_counter()
    trained: dict[str, TrainResult] = {}
    learn = partial(_learn, mllm, merged, _samples_of(merged), out / "compressors", script.recipes)
    with bar("train", "compressors") as report:
        for kind, result in each(learn, script.recipes, workers, ordered=True):
            trained[kind] = result
            report(len(trained), len(script.recipes))
    seconds["training"] = time.perf_counter() - began

    began = time.perf_counter()
    entries = [Entry(name, selector_for(name, mllm.name)) for name in script.controls]
    for name, (kind, method) in script.rows.items():
        entries.append(Entry(name, method(trained[kind].compressor)))
    with bar("compare", "cells") as report:
        found = compare(
            mllm, entries, script.keeps, load_tasks(BENCHMARKS, n, world=world), reference=script.reference,
            batch=32, workers=workers, folder=out, progress=report,
        )  # fmt: skip
    seconds["comparison"] = time.perf_counter() - began
    reused = {kind: len(store) for kind, store in stores.items()}
    return Demo(found, live, reused, trained, seconds)


def _samples_of(labels: Mapping[str, Sequence[Label]]) -> dict[str, Sample]:
    keys = dict.fromkeys(one.id for listed in labels.values() for one in listed)
    return {sample_key(sample): sample for sample in labelled_samples(keys)}


def _learn(
    mllm: MLLM, labels: Mapping[str, Sequence[Label]], samples: Mapping[str, Sample], folder: Path,
    recipes: Mapping[str, TrainConfig], kind: str,
) -> TrainResult:  # fmt: skip
    # Held-out labels select the epoch: a hundred TextVQA answers are too few to distinguish epochs.
    chosen = [samples[one.id] for one in labels[kind]]
    return train(mllm, labels[kind], chosen, folder / kind, recipes[kind])
