"""How long a plan will take and in how much memory: from earlier steps here, or from stated constants."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench.evaluation.history import Times
from bench.recipe.steps import RECORD, Step, Workspace, read_record

# Seconds per forward and worker of the shipped micro model on two cores, and FLOPs of such a forward: what
# is known before anything has run (docs/reproducing.md). A training's forward is one sample in one epoch.
MICRO: Mapping[str, tuple[float, float]] = {
    "label": (6.3e-4, 9.6e7),
    "train": (2.0e-3, 1.3e8),
    "answer": (5.0e-3, 1.1e8),
    "searched": (5.0e-3, 1.1e8),
    "losses": (3.0e-3, 9.6e7),
}
ORIGIN = "micro on two cores"
GPU_FLOPS = 5e13  # assumed, never measured: what a large GPU sustains on batches of short sequences


@dataclass(frozen=True)
class Estimate:
    """What is left of a step. `seconds` is None where nothing is known of such a step."""

    step: Step
    forwards: float
    seconds: float | None
    origin: str
    memory: float  # bytes, weights included

    @property
    def state(self) -> str:
        step = self.step
        if step.done:
            return "done"
        return (
            f"{step.finished} of {step.units} {step.unit}" if step.finished else f"{step.units} {step.unit}"
        )


def estimates(steps: Sequence[Step], shop: Workspace) -> list[Estimate]:
    """What is left of every step, in order."""
    rates = _rates(shop)
    return [_estimate(step, shop, rates) for step in steps]


def _estimate(step: Step, shop: Workspace, rates: Mapping[tuple[str, ...], float]) -> Estimate:
    mllm, cost = shop.load(step.model), step.cost
    forwards = (step.units - step.finished) * cost.forwards
    weights = sum(one.numel() * one.element_size() for one in mllm.model.parameters())
    device = mllm.model.device.type
    known = rates.get((step.kind, shop.fingerprint(step.model)[:16], device, str(shop.workers)))
    workers = 1 if step.kind == "train" else shop.workers
    seconds: float | None
    if known is not None:
        seconds, origin = forwards * known, "earlier steps here"
    elif step.kind not in MICRO:
        seconds, origin = None, "unknown until it has run once"
    elif device == "cpu":
        each, flops = MICRO[step.kind]
        seconds = forwards * each * max(1.0, cost.flops / flops) / workers
        origin = ORIGIN + (", scaled by FLOPs" if cost.flops > 3 * flops else "")
    else:
        seconds, origin = forwards * cost.flops / GPU_FLOPS, f"assumed {GPU_FLOPS:.0e} FLOP/s"
    return Estimate(step, forwards, seconds, "" if step.done else origin, weights + cost.memory)


def _rates(shop: Workspace) -> dict[tuple[str, ...], float]:
    """Seconds per forward by kind, model, device and workers, over all that was noted here."""
    spent: dict[tuple[str, ...], list[float]] = {}
    for path in sorted((shop.folder / "steps").glob(f"*/{RECORD}")):
        kind = read_record(path).kind
        for one in Times.read(path.parent).work:
            total = spent.setdefault((kind, one.model, one.device, str(one.workers)), [0.0, 0.0])
            total[0] += one.seconds
            total[1] += one.forwards
    return {key: seconds / forwards for key, (seconds, forwards) in spent.items() if forwards}


def duration(seconds: float | None) -> str:
    """A time as one would say it."""
    if seconds is None:
        return "?"
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
