"""Time all cells in turns (A B A B), so that other load on the machine affects all of them alike."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor
from torch._dynamo.exc import TorchDynamoException

from bench.latency.clock import Clock
from bench.latency.power import Driver
from bench.latency.request import LatencyCell, LatencyRunner, RequestCost, RequestTiming
from bench.latency.rounds import Rounds
from compress.memory import ran_out
from compress.progress import Progress


@dataclass
class Measured:
    """The results of a run. A cell without a cost could not be run: `problems` holds the reason."""

    rounds: Rounds
    costs: dict[LatencyCell, RequestCost] = field(default_factory=dict)
    joules: dict[LatencyCell, float] = field(default_factory=dict)  # of one request, if a driver counts them
    problems: dict[LatencyCell, str] = field(default_factory=dict)
    peak: float | None = None  # FLOP/s of large matrix products on this device, the roof


def measure(
    rig: LatencyRunner,
    cells: Sequence[LatencyCell],
    rounds: Rounds,
    *,
    repetitions: int,
    warmup: int = 3,
    progress: Progress = lambda done, total: None,
) -> Measured:
    """Time every cell `repetitions` times, in rounds over all cells.

    The first cell of every mode is vanilla; it is timed in every round with another cell of that mode. A cell
    that cannot be run, or runs out of memory, is left out with its reason, and the others go on. Repetitions
    that `rounds` already has are not repeated, and cells without missing repetitions are not warmed up.
    """
    found = Measured(rounds, peak=roof(rig.mllm.model.device, rig.mllm.model.dtype, rig.clock))
    for cell in cells:
        with _problem_of(cell, found):
            rig.check(cell)
            found.costs[cell] = rig.cost(cell)
    vanilla = {cell.mode: cell for cell in reversed(cells) if rig.selectors[cell.method] is None}

    def left(cell: LatencyCell) -> int:
        return max(0, repetitions - len(rounds.shots(cell)))

    def beside_vanilla(todo: Sequence[LatencyCell]) -> list[LatencyCell]:
        modes = {cell.mode for cell in todo}
        beside = {vanilla[mode] for mode in modes if mode in vanilla}
        return [cell for cell in found.costs if cell in todo or cell in beside]

    for cell in beside_vanilla([cell for cell in found.costs if left(cell)]):
        with _problem_of(cell, found):
            for _ in range(warmup):
                rig.shoot(cell)
    most = max(map(left, found.costs), default=0)
    while missing := max(map(left, found.costs), default=0):
        turn = beside_vanilla([cell for cell in found.costs if left(cell) == missing])
        first = (most - missing) % len(turn)
        shots: dict[LatencyCell, RequestTiming] = {}
        with _no_garbage():
            # The first cell changes each round, so that no cell always follows the same one.
            for cell in turn[first:] + turn[:first]:
                with _problem_of(cell, found):
                    shots[cell] = rig.shoot(cell)
        rounds.add(shots)
        progress(most - missing + 1, most)
    driver = Driver(rig.mllm.model.device)
    for cell in list(found.costs):
        with _problem_of(cell, found):
            joules = driver.joules(partial(rig.shoot, cell))
            if joules is not None:
                found.joules[cell] = joules
    return found


@contextmanager
def _problem_of(cell: LatencyCell, found: Measured) -> Iterator[None]:
    """Record the error that makes a cell impossible, and continue."""
    try:
        yield
        return
    except ValueError as problem:
        why = str(problem)
    except TorchDynamoException as problem:
        why = f"torch.compile failed: {str(problem).strip().partition(chr(10))[0]}"
    except (MemoryError, RuntimeError) as problem:
        if not ran_out(problem):
            raise
        why = "out of memory"
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    found.costs.pop(cell, None)
    found.problems[cell] = why


@contextmanager
def _no_garbage() -> Iterator[None]:
    """Collect garbage before a round and disable collection during it, so that no measurement includes it."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def roof(
    device: torch.device, dtype: torch.dtype, clock: Clock,
    product: Callable[[Tensor, Tensor], Tensor] = torch.matmul,
) -> float | None:  # fmt: skip
    """FLOP/s of a large product of square matrices, the best of ten; None if it does not fit into memory."""
    side = 8192 if device.type == "cuda" else 1024
    try:
        left, right = (torch.ones(side, side, dtype=dtype, device=device) for _ in range(2))
    except RuntimeError:
        return None
    best = float("inf")
    for _ in range(10):
        start = clock.mark()
        product(left, right)
        end = clock.mark()
        clock.wait()
        best = min(best, clock.seconds(start, end))
    return 2 * side**3 / best
