"""Time estimates for a plan, from the rates measured in the same folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench.evaluation.history import Times
from bench.evaluation.planned import makespan
from bench.recipe.steps import RECORD, Step, TrainStep, Workspace, read_record


@dataclass(frozen=True)
class Estimate:
    """The remaining work of a step.

    `seconds` is None if no step of the same kind, model and device was timed. `measured` is the number of
    workers of that timing, if it differs from the step's; the estimate assumes workers of the same speed.
    `alone` is the time in seconds of one such worker.
    """

    step: Step
    forwards: float
    seconds: float | None
    measured: int | None = None
    alone: float = 0.0

    @property
    def state(self) -> str:
        step = self.step
        if step.done:
            return "done"
        return (
            f"{step.finished} of {step.units} {step.unit}" if step.finished else f"{step.units} {step.unit}"
        )


def estimates(steps: Sequence[Step], shop: Workspace) -> list[Estimate]:
    """The remaining work of every step, in order."""
    rates = _rates(shop)
    return [_estimate(step, shop, rates) for step in steps]


def _estimate(step: Step, shop: Workspace, rates: Mapping[tuple[str, ...], Mapping[int, float]]) -> Estimate:
    forwards = (step.units - step.finished) * step.forwards
    if step.done:
        return Estimate(step, forwards, 0.0)
    device = shop.load(step.model).model.device.type
    found = rates.get((step.kind, shop.fingerprint(step.model)[:16], device))
    if not found:
        return Estimate(step, forwards, None)
    measured = min(found, key=lambda workers: (abs(workers - step.workers), workers))
    alone = forwards * found[measured] * measured
    other = None if measured == step.workers else measured
    return Estimate(step, forwards, alone / step.workers, other, alone)


def in_all(told: Sequence[Estimate], workers: int) -> float:
    """Total seconds of the steps with a known time, on `workers` workers.

    Trainings run in parallel with each other, but not with other steps. All other steps run one after the
    other, on all workers or, if the work cannot be divided, on one.
    """
    shared = (one.step.workers > 1 for one in told)
    trains = [one.alone for one in told if isinstance(one.step, TrainStep)]
    others = (
        one.alone / (workers if several else 1)
        for one, several in zip(told, shared, strict=True)
        if not isinstance(one.step, TrainStep)
    )
    return sum(others) + makespan(trains, workers)


def _rates(shop: Workspace) -> dict[tuple[str, ...], dict[int, float]]:
    """Seconds per forward by kind, model and device, then by number of workers, over all records."""
    spent: dict[tuple[str, ...], dict[int, list[float]]] = {}
    for path in sorted((shop.folder / "steps").glob(f"*/{RECORD}")):
        kind = read_record(path).kind
        for one in Times.read(path.parent).work:
            by_workers = spent.setdefault((kind, one.model, one.device), {})
            total = by_workers.setdefault(one.workers, [0.0, 0.0])
            total[0] += one.seconds
            total[1] += one.forwards
    return {
        key: rates
        for key, by_workers in spent.items()
        if (rates := {n: seconds / forwards for n, (seconds, forwards) in by_workers.items() if forwards})
    }


def duration(seconds: float | None) -> str:
    """A time in words."""
    if seconds is None:
        return "?"
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
