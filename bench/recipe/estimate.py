"""How long a plan will take, by the rates that were measured in the same folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench.evaluation.history import Times
from bench.recipe.steps import RECORD, Step, Workspace, read_record


@dataclass(frozen=True)
class Estimate:
    """What is left of a step. `seconds` is None if no such step was timed yet: of its kind, on the same
    model, device and number of processes."""

    step: Step
    forwards: float
    seconds: float | None

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
    forwards = (step.units - step.finished) * step.forwards
    device = shop.load(step.model).model.device.type
    rate = rates.get((step.kind, shop.fingerprint(step.model)[:16], device, str(shop.workers)))
    if step.done:
        return Estimate(step, forwards, 0.0)
    return Estimate(step, forwards, None if rate is None else forwards * rate)


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
