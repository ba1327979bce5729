"""A clock that the model's own work moves, and times made by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from bench.evaluation.ledger import DecoderShape, Ledger
from bench.latency.measure import Measured
from bench.latency.request import LatencyCell, RequestCost, RequestTiming
from bench.latency.rounds import Rounds
from compress.models.loading import MLLM

SHAPE = DecoderShape(layers=2, hidden=8, intermediate=16, heads=2, kv_heads=2, head_dim=4, vocabulary=20)


@pytest.fixture(autouse=True)
def known_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    """What large matrix products reach here is timed once, by the test of it."""
    monkeypatch.setattr("bench.latency.measure.roof", lambda *_: 1e11)


class Ticks:
    """Time as a number that stands still unless somebody moves it."""

    def __init__(self) -> None:
        self.now = 0.0

    def mark(self) -> float:
        return self.now

    def seconds(self, start: float, end: float) -> float:
        return end - start

    def wait(self) -> None:
        pass

    def forget_peak(self) -> None:
        pass

    def peak(self) -> int | None:
        return None

    @contextmanager
    def moved_by(self, mllm: MLLM) -> Iterator[None]:
        """Each tower layer takes 10, the projector 5, each decoder layer 1, the head 0.5."""
        works = [(layer.mlp, 10.0) for layer in mllm.tower_layers] + [(mllm.projector.linear_1, 5.0)]
        works += [(layer.mlp, 1.0) for layer in mllm.decoder.layers]

        def take(seconds: float) -> Callable[..., None]:
            def work(*_: object) -> None:
                self.now += seconds

            return work

        handles = [module.register_forward_hook(take(seconds)) for module, seconds in works]
        handles.append(mllm.head.register_forward_pre_hook(take(0.5)))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def shot(total: float, *, selection: float = 0.0, prefill: float | None = None) -> RequestTiming:
    """A request of which half is prefill, a quarter vision, the rest decoding of two tokens."""
    prefill = total / 2 if prefill is None else prefill
    first = total / 4 + selection + prefill
    return RequestTiming(total / 4, selection, prefill, first, (total - first) / 2, total, 2**20)


def measured(times: dict[LatencyCell, list[float]]) -> Measured:
    """Totals by cell, one per round."""
    rounds = Rounds(None, {}, {})
    for number in range(max(map(len, times.values()))):
        rounds.add({cell: shot(each[number]) for cell, each in times.items() if number < len(each)})
    costs = {cell: RequestCost(Ledger(SHAPE, [cell.keep] * 2, text=4), waits=3) for cell in times}
    return Measured(rounds, costs, peak=1e9)


MakeShot = Callable[..., RequestTiming]
MakeMeasured = Callable[[dict[LatencyCell, list[float]]], Measured]


@pytest.fixture(autouse=True)
def quick_roof(monkeypatch: pytest.MonkeyPatch) -> None:
    """The device's best takes half a second to measure, and no test needs it."""
    monkeypatch.setattr("bench.latency.measure.roof", lambda *_: 1e9)


@pytest.fixture
def ticks() -> Ticks:
    return Ticks()


@pytest.fixture(scope="session")
def make_shot() -> MakeShot:
    return shot


@pytest.fixture(scope="session")
def make_measured() -> MakeMeasured:
    return measured
