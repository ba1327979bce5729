"""One run from conditions to a report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from baselines import METHODS
from bench.evaluation.comparison import VANILLA
from bench.evaluation.compressors import random_compressor, selector_for, takes_compressor
from bench.evaluation.environment import environment
from bench.evaluation.protocol import of_method
from bench.latency.measure import Progress, measure
from bench.latency.modes import MODES
from bench.latency.power import Driver
from bench.latency.report import Report
from bench.latency.request import Cell, Rig
from bench.latency.rounds import Rounds
from compress.base import Selector
from compress.budget import Match
from compress.models.loading import MLLM
from evosearch.registry import pick

RANDOM = "random"  # in place of a compressor's folder: random weights


@dataclass(frozen=True)
class Conditions:
    """What is asked for. `compressor` is a folder, "random", or None for the one shipped with `model`."""

    methods: tuple[str, ...]
    keeps: tuple[int, ...]
    modes: tuple[str, ...] = ("eager",)
    match: Match = "equivalent"  # or "tokens"
    batch: int = 1
    steps: int = 8
    repetitions: int = 30
    warmup: int = 3
    model: str = "micro"
    compressor: str | None = None
    clock: str = "wall"  # or "processor"

    def selectors(self, mllm: MLLM) -> dict[str, Selector | None]:
        """Methods by their specs, vanilla first."""
        made: dict[str, Selector | None] = {VANILLA: None}
        for spec in self.methods:
            takes = takes_compressor(spec)
            if takes and self.compressor == RANDOM:
                made[spec] = pick(METHODS, spec, "method", compressor=random_compressor(mllm))
            else:
                made[spec] = selector_for(spec, self.model, self.compressor if takes else None)
        return made

    def cells(self, mllm: MLLM) -> list[Cell]:
        """Vanilla of every mode, then budget by budget."""
        whole = [Cell(VANILLA, mllm.visual_tokens, mode) for mode in self.modes]
        return whole + [
            Cell(spec, keep, mode) for keep in self.keeps for spec in self.methods for mode in self.modes
        ]


def run(
    mllm: MLLM,
    conditions: Conditions,
    inputs: Mapping[str, Any],
    folder: Path | None = None,
    *,
    accuracy: Mapping[tuple[str, int], float] | None = None,
    command: str = "",
    progress: Progress = lambda done, total: None,
) -> Report:
    """Time all cells; with a `folder` every round is kept there. ValueError if none could be timed."""
    selectors = conditions.selectors(mllm)
    told = held(mllm, conditions, inputs)
    methods = {name: of_method(selector) for name, selector in selectors.items() if selector}
    rounds = Rounds(folder, told, methods)
    rig = Rig(mllm, selectors, inputs, steps=conditions.steps, match=conditions.match, clock=conditions.clock)
    cells = conditions.cells(mllm)
    measured = measure(
        rig, cells, rounds, repetitions=conditions.repetitions, warmup=conditions.warmup, progress=progress
    )
    if not measured.costs:
        raise ValueError("; ".join(dict.fromkeys(measured.problems.values())))
    facts = environment() | told | Driver(mllm.model.device).facts()
    facts |= {"modes": {mode: MODES[mode] for mode in conditions.modes}, "command": command}
    return Report(measured, cells, facts, VANILLA, mllm.visual_tokens, conditions.batch, dict(accuracy or {}))


def held(mllm: MLLM, conditions: Conditions, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """What has to be the same in all rounds of a folder."""
    device, length = mllm.model.device, inputs["input_ids"].shape[1]
    cuda = device.type == "cuda"
    here = environment()
    weights = "random" if mllm.processor is None else mllm.fingerprint()[:16]
    return {
        "model": mllm.name,
        "weights": weights,
        "compressor": conditions.compressor or "shipped",
        "parameters": sum(each.numel() for each in mllm.model.parameters()),
        "visual tokens": mllm.visual_tokens,
        "text tokens": length - mllm.visual_tokens,
        "new tokens": conditions.steps,
        "batch": conditions.batch,
        "match": conditions.match,
        "clock": conditions.clock,
        "device": torch.cuda.get_device_name(device) if cuda else device.type,
        "dtype": str(mllm.model.dtype).removeprefix("torch."),
        "attention": mllm.decoder.config._attn_implementation,
        "processor": here["processor"],
        "torch": torch.__version__,
        "transformers": here["transformers"],
        "cuda": torch.version.cuda if cuda else None,
        "threads": torch.get_num_threads(),
        "warm-up": conditions.warmup,
    }
