"""One request in one mode of running the model: seconds of its stages, and its cost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from pydantic import NonNegativeFloat

from bench.evaluation.ledger import DecoderShape, Ledger
from bench.evaluation.times import NOW, ClockKind
from bench.latency.clock import clock_of
from bench.latency.modes import Eager, Static
from bench.latency.stages import Stages
from bench.latency.waits import counting_waits
from compress.attach.session import attach
from compress.base import INPUT, Selector
from compress.budget import Match, entering, plan
from compress.documents import Bytes
from compress.models.loading import MLLM

OF_DEPTH = "drops tokens between the decoder's layers: only eager, where every layer has a cache of its own"


class LatencyCell(NamedTuple):
    """One timed case: a method at a budget in one mode.

    Vanilla has the name and the budget of the untouched model.
    """

    method: str
    keep: int
    mode: str = "eager"


@dataclass(frozen=True)
class RequestTiming:
    """Seconds of one request, and bytes.

    `vision`, `selection` and `prefill` are timed on the device. `first` token, `total` and `step` (the mean
    time of a token after the first; None if there is none) are timed on the host, until a token has reached
    it.
    """

    vision: NonNegativeFloat
    selection: NonNegativeFloat
    prefill: NonNegativeFloat  # of the LLM, without selection
    first: NonNegativeFloat
    step: NonNegativeFloat | None
    total: NonNegativeFloat
    # Most bytes in use: on a GPU by torch, with the recorded graphs of other cells; on a CPU by the process.
    memory: Bytes | None


@dataclass(frozen=True)
class RequestCost:
    """The costs of one sample that do not depend on the clock."""

    ledger: Ledger
    waits: int  # waits of the host for the device, in one pass over the prompt


def tokens_in(mllm: MLLM, inputs: Mapping[str, Any]) -> int:
    """Visual tokens of the first prompt."""
    return int(mllm.placeholders(inputs["input_ids"][0]).sum())


class LatencyRunner:
    """A model, a prompt for it, and methods by name; `None` is the untouched model.

    `clock` is a kind in NOW.
    """

    def __init__(
        self, mllm: MLLM, selectors: Mapping[str, Selector | None], inputs: Mapping[str, Any], *, steps: int,
        match: Match = "equivalent", clock: ClockKind = "wall",
    ):  # fmt: skip
        self.mllm, self.selectors, self.inputs = mllm, selectors, inputs
        self.tokens = tokens_in(mllm, inputs)  # visual tokens of a prompt
        self.steps, self.match = steps, match
        self.clock, self.now = clock_of(mllm.model.device, clock), NOW[clock]
        self.runs: dict[LatencyCell, Eager] = {}

    @property
    def batch(self) -> int:
        return len(self.inputs["input_ids"])

    def schedule(self, cell: LatencyCell) -> dict[int, int]:
        """Depth -> remaining visual tokens; ValueError for an impossible budget."""
        selector, mllm = self.selectors[cell.method], self.mllm
        if selector is None:
            return {}
        return plan(selector, self.tokens, cell.keep, mllm.layers, self.match)

    def check(self, cell: LatencyCell) -> None:
        """ValueError if this cell cannot be run."""
        schedule = self.schedule(cell)
        with self._attached(cell):
            pass
        selector = self.selectors[cell.method]
        if cell.mode != "eager" and max(schedule, default=INPUT) > INPUT:
            raise ValueError(f"{cell.method} {OF_DEPTH}")
        if cell.mode != "eager" and selector and selector.adaptive:
            raise ValueError(f"{cell.method} chooses the number of tokens itself: use the mode eager")

    @torch.no_grad()
    def shoot(self, cell: LatencyCell) -> RequestTiming:
        """Time one request. Attaching is excluded, since it happens once for many requests."""
        clock, stages = self.clock, Stages(self.mllm, self.clock, tuple(self.schedule(cell)))
        stamps: list[float] = []
        with self._ready(cell) as run, ExitStack() as inside:
            inside.enter_context(stages.outer())
            self._attached(cell, inside, stages)
            inside.enter_context(stages.inner())
            clock.forget_peak()
            clock.wait()
            start = self.now()
            run.answer(self.inputs, lambda: stamps.append(self.now()))
            clock.wait()
            total = self.now() - start
        vision, selection, prefill = stages.seconds()
        later = len(stamps) - 1
        return RequestTiming(
            vision=vision,
            selection=selection,
            prefill=prefill,
            first=stamps[0] - start,
            step=(stamps[-1] - stamps[0]) / later if later else None,
            total=total,
            memory=clock.peak(),
        )

    @torch.no_grad()
    def cost(self, cell: LatencyCell) -> RequestCost:
        """The ledger and the waits of a method at a budget, from two untimed passes over the prompt."""
        with self._attached(cell), counting_waits(self.mllm.model.device) as waits:
            self.mllm.model(**self.inputs, use_cache=True, logits_to_keep=1)
        return RequestCost(self._ledger(cell), waits[0])

    def _ledger(self, cell: LatencyCell) -> Ledger:
        mllm, selector = self.mllm, self.selectors[cell.method]
        shape = DecoderShape.of(mllm.decoder.config)
        if selector is None:
            tokens = self.tokens
            text = self.inputs["input_ids"].shape[1] - tokens
            return Ledger(shape, entering({}, tokens, mllm.layers), text)
        with attach(mllm, selector, cell.keep, match=self.match, count_flops=True) as trace:
            mllm.model(**self.inputs, use_cache=True, logits_to_keep=1)
        return Ledger.mean(shape, trace.samples)

    def _attached(
        self, cell: LatencyCell, inside: ExitStack | None = None, stages: Stages | None = None
    ) -> ExitStack:
        """Attach the method, in `inside` or in a new exit stack; `stages` time its merging."""
        inside = inside or ExitStack()
        if selector := self.selectors[cell.method]:
            watched = stages.watch(selector) if stages else selector
            inside.enter_context(attach(self.mllm, watched, cell.keep, match=self.match))
        return inside

    @contextmanager
    def _ready(self, cell: LatencyCell) -> Iterator[Eager]:
        """Yield the cell's runner, prepared for a request; it is discarded if the request fails."""
        if cell not in self.runs:
            self.runs[cell] = self._run(cell)
        run = self.runs[cell]
        try:
            run.reset()
            yield run
        except BaseException:
            del self.runs[cell]
            raise
        finally:
            run.release()

    def _run(self, cell: LatencyCell) -> Eager:
        if cell.mode == "eager":
            return Eager(self.mllm, self.steps)
        length, tokens = self.inputs["input_ids"].shape[1], self.tokens
        left = entering(self.schedule(cell), tokens, self.mllm.layers)[-1]
        return Static(self.mllm, self.steps, self.batch, length - tokens + left, cell.mode)
