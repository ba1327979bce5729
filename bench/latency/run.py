"""One latency run, from its conditions to a report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from baselines import METHODS
from bench.evaluation.comparison import VANILLA
from bench.evaluation.compressors import (
    buildable,
    random_compressor,
    refuse_unused,
    selector_for,
    takes_compressor,
)
from bench.evaluation.environment import environment
from bench.evaluation.history import now
from bench.evaluation.opening import asked, load_model, open_image, shaped
from bench.evaluation.protocol import CODE, of_method
from bench.evaluation.times import ClockKind
from bench.latency.measure import measure
from bench.latency.modes import MODES
from bench.latency.power import Driver
from bench.latency.report import LatencyReport, write
from bench.latency.request import LatencyCell, LatencyRunner, tokens_in
from bench.latency.rounds import Rounds
from compress.base import Selector
from compress.budget import Match
from compress.fingerprint import fingerprint
from compress.keep import Keep, count_of
from compress.models.loading import MLLM, Anyres
from compress.models.shapes import random_inputs
from compress.progress import Progress
from evosearch.registry import find, parse, pick, specs

RANDOM = "random"  # given instead of a compressor's folder: random weights


@dataclass(frozen=True)
class Conditions:
    """The timed cases.

    `compressor` is a folder, "random", or None for the one shipped with `model`. `compressors` gives the
    folders of single methods, by spec.
    """

    methods: tuple[str, ...]
    keeps: tuple[Keep, ...]
    modes: tuple[str, ...] = ("eager",)
    match: Match = "equivalent"  # or "tokens"
    batch: int = 1
    steps: int = 8
    repetitions: int = 30
    warmup: int = 3
    model: str = "micro"
    compressor: str | None = None
    compressors: Mapping[str, str] = field(default_factory=dict)
    clock: ClockKind = "wall"

    def selectors(self, mllm: MLLM) -> dict[str, Selector | None]:
        """Methods by their specs, vanilla first."""
        made: dict[str, Selector | None] = {VANILLA: None}
        for spec in self.methods:
            weights = self.compressors.get(spec, self.compressor) if takes_compressor(spec) else None
            if weights == RANDOM:
                made[spec] = pick(METHODS, spec, "method", compressor=random_compressor(mllm))
            else:
                made[spec] = selector_for(spec, self.model, weights)
        return made

    def budgets(self, tokens: int, model: str) -> list[int]:
        """Budgets as counts out of `tokens`; ValueError, naming the model, if one drops nothing."""
        counts = list(dict.fromkeys(count_of(keep, tokens) for keep in self.keeps))
        if wrong := [count for count in counts if not 1 <= count < tokens]:
            raise ValueError(
                f"--keep {wrong[0]}: choose between 1 and {tokens - 1}, below {model}'s {tokens}"
            )
        return counts

    def cells(self, tokens: int, model: str) -> list[LatencyCell]:
        """Vanilla in every mode, then all methods, budget by budget."""
        budgets = self.budgets(tokens, model)
        whole = [LatencyCell(VANILLA, tokens, mode) for mode in self.modes]
        return whole + [
            LatencyCell(spec, keep, mode) for keep in budgets for spec in self.methods for mode in self.modes
        ]


@dataclass(frozen=True)
class RequestOptions:
    """The request: `question` about `image`, or a random prompt for a published architecture.

    With `shape` the architecture has random weights, and the prompt has `text` random tokens; `frames` puts a
    video in place of the image. `depth_slice` builds only the first decoder layers.
    """

    shape: str | None = None
    depth_slice: int | None = None
    text: int = 40
    frames: int = 0
    image: str = "micro:3"
    question: str = "what color is the star ?"

    def __post_init__(self) -> None:
        if self.depth_slice is not None and not self.shape:
            raise ValueError("--depth-slice needs --shape (evocomp bench latency --help)")
        if self.frames and not self.shape:
            raise ValueError("--frames needs --shape (evocomp bench latency --help)")

    def load(self, model: str, device: str, dtype: str, anyres: Anyres) -> MLLM:
        """Load the model to time: `model`, unless `shape` is given."""
        if self.shape:
            return shaped(self.shape, device, dtype, self.depth_slice)
        return load_model(model, device, dtype, anyres)

    def inputs(self, mllm: MLLM, batch: int = 1) -> dict[str, Any]:
        """Inputs of the model: the same request `batch` times."""
        if self.shape:
            return dict(random_inputs(mllm, self.text, batch, frames=self.frames))
        return prompt(mllm, self.image, asked(self.question), batch)


def run(
    mllm: MLLM,
    conditions: Conditions,
    inputs: Mapping[str, Any],
    folder: Path | None = None,
    *,
    accuracy: Mapping[tuple[str, int], float] | None = None,
    command: str = "",
    progress: Progress = lambda done, total: None,
) -> LatencyReport:
    """Time all cells. ValueError if none could be timed.

    With a `folder` every round is stored there, and the tables and pictures of the report are written.
    """
    tokens = tokens_in(mllm, inputs)
    cells = conditions.cells(tokens, mllm.name)
    selectors = conditions.selectors(mllm)
    told = held(mllm, conditions, inputs)
    methods = {name: of_method(selector) for name, selector in selectors.items() if selector}
    rounds = Rounds(folder, told, methods)
    rig = LatencyRunner(
        mllm, selectors, inputs, steps=conditions.steps, match=conditions.match, clock=conditions.clock
    )
    measured = measure(
        rig, cells, rounds, repetitions=conditions.repetitions, warmup=conditions.warmup, progress=progress
    )
    if not measured.costs:
        raise ValueError("; ".join(dict.fromkeys(measured.problems.values())))
    facts = environment() | told | Driver(mllm.model.device).facts()
    facts |= {"modes": {mode: MODES[mode] for mode in conditions.modes}, "date": now(), "command": command}
    scores = dict(accuracy or {})
    report = LatencyReport(measured, cells, facts, VANILLA, tokens, conditions.batch, scores)
    if folder:
        write(report, folder)
    return report


def rivals(wanted: str, model: str, compressor: str | None) -> list[str]:
    """Specs of the requested methods, or of all that can be built.

    Vanilla is left out, since it is always timed. ValueError for unknown names and an idle compressor.
    """
    listed = buildable(model, compressor) if wanted.strip() == "all" else specs(wanted)
    for spec in listed:
        find(METHODS, parse(spec)[0], "method")
    refuse_unused(None if compressor == RANDOM else compressor, listed)
    return [spec for spec in listed if spec != VANILLA]


def prompt(mllm: MLLM, image: str, question: str, batch: int) -> dict[str, Any]:
    """Inputs of the model: the same request `batch` times.

    ValueError if the image does not have the model's number of visual tokens: budgets, costs and cache
    lengths are computed from that number.
    """
    picture = open_image(image, mllm.image_side)
    inputs = mllm.prepare([picture] * batch, [question] * batch)
    found, side = int((inputs["input_ids"][0] == mllm.image_token_id).sum()), mllm.image_side
    if found != mllm.visual_tokens:
        raise ValueError(
            f"--image {image} of {picture.width} x {picture.height} pixels has {found} visual tokens and "
            f"{mllm.name} is timed with {mllm.visual_tokens}: give an image of {side} x {side} pixels"
        )
    return dict(inputs)


def held(mllm: MLLM, conditions: Conditions, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Facts that must be equal in all rounds of a folder."""
    device, length = mllm.model.device, inputs["input_ids"].shape[1]
    cuda = device.type == "cuda"
    here = environment()
    weights = "random" if mllm.processor is None else mllm.fingerprint()[:16]
    return {
        "model": mllm.name,
        "weights": weights,
        "compressor": dict(conditions.compressors) or conditions.compressor or "shipped",
        "parameters": sum(each.numel() for each in mllm.model.parameters()),
        "visual tokens": (tokens := tokens_in(mllm, inputs)),
        "text tokens": length - tokens,
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
        CODE: fingerprint(measure, LatencyRunner, type(mllm)),
    }
