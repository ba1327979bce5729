"""The order of shots and what happens when one fails, with a rig that only remembers."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from bench.evaluation.ledger import DecoderShape, Ledger
from bench.latency.clock import NOW, HostClock, clock_of
from bench.latency.measure import measure, roof
from bench.latency.request import LatencyCell, RequestCost
from bench.latency.rounds import Rounds

SHAPE = DecoderShape(layers=2, hidden=8, intermediate=16, heads=2, kv_heads=2, head_dim=4, vocabulary=20)
WHOLE, GRID, FASTV = LatencyCell("none", 16), LatencyCell("grid", 4), LatencyCell("fastv", 4)
CELLS = [WHOLE, GRID, FASTV]


class Fake:
    """Shoots into a list; `trouble` may raise instead."""

    def __init__(
        self, make_shot: Callable, trouble: Callable[[LatencyCell, int], None] = lambda cell, number: None
    ):
        self.make_shot, self.trouble = make_shot, trouble
        self.selectors = {"none": None, "grid": object(), "fastv": object()}
        self.clock = HostClock()
        self.mllm = SimpleNamespace(model=SimpleNamespace(device=torch.device("cpu"), dtype=torch.float32))
        self.order: list[LatencyCell] = []

    def check(self, cell: LatencyCell) -> None:
        self.trouble(cell, -1)

    def cost(self, cell: LatencyCell) -> RequestCost:
        return RequestCost(Ledger(SHAPE, [cell.keep] * 2, text=4), waits=0)

    def shoot(self, cell: LatencyCell) -> Any:
        self.trouble(cell, self.order.count(cell))
        self.order.append(cell)
        return self.make_shot(float(len(self.order)))


def timed(
    rig: Fake, rounds: Rounds, repetitions: int, warmup: int = 0, cells: list[LatencyCell] = CELLS
) -> Any:
    return measure(rig, cells, rounds, repetitions=repetitions, warmup=warmup)  # type: ignore[arg-type]


def test_cells_take_turns_and_none_always_follows_the_same_one(make_shot):
    rig, rounds = Fake(make_shot), Rounds(None, {}, {})
    timed(rig, rounds, 3)
    assert rig.order == [WHOLE, GRID, FASTV, GRID, FASTV, WHOLE, FASTV, WHOLE, GRID]
    assert all(set(each) == set(CELLS) for each in rounds.rounds)


def test_warm_up_is_not_kept(make_shot):
    rig, rounds = Fake(make_shot), Rounds(None, {}, {})
    timed(rig, rounds, 2, warmup=3)
    assert rig.order[:3] == [WHOLE] * 3 and len(rig.order) == 3 * (3 + 2)
    assert len(rounds.shots(GRID)) == 2


def test_a_second_run_adds_what_is_missing_beside_vanilla(make_shot):
    rounds = Rounds(None, {}, {})
    timed(Fake(make_shot), rounds, 2, cells=[WHOLE, GRID])
    rig = Fake(make_shot)
    timed(rig, rounds, 2)
    assert sorted(set(rig.order)) == [FASTV, WHOLE] and rig.order.count(FASTV) == 2
    assert list(rounds.shots(FASTV)) == [2, 3] and list(rounds.shots(WHOLE)) == [0, 1, 2, 3]
    done = Fake(make_shot)
    timed(done, rounds, 2)
    assert done.order == []


def test_more_repetitions_go_on(make_shot):
    rounds = Rounds(None, {}, {})
    timed(Fake(make_shot), rounds, 2)
    rig = Fake(make_shot)
    timed(rig, rounds, 5)
    assert len(rig.order) == 9 and len(rounds.shots(GRID)) == 5


def test_a_cell_that_cannot_be_run_leaves_a_second_run_its_rounds(make_shot):
    rounds = Rounds(None, {}, {})
    timed(Fake(make_shot), rounds, 2, cells=[WHOLE, GRID])

    def trouble(cell: LatencyCell, number: int) -> None:
        if cell == FASTV:
            raise ValueError("out of reach")

    rig, told = Fake(make_shot, trouble), []
    measure(rig, CELLS, rounds, repetitions=4, warmup=0, progress=lambda *at: told.append(at))  # type: ignore[arg-type]
    assert len(rounds.shots(GRID)) == len(rounds.shots(WHOLE)) == 4
    assert told == [(1, 2), (2, 2)]


def test_vanilla_is_warm_beside_what_a_second_run_adds(make_shot):
    rounds = Rounds(None, {}, {})
    timed(Fake(make_shot), rounds, 2, cells=[WHOLE, GRID])
    rig = Fake(make_shot)
    timed(rig, rounds, 2, warmup=3)
    assert (rig.order.count(WHOLE), rig.order.count(FASTV), rig.order.count(GRID)) == (3 + 2, 3 + 2, 0)
    assert rig.order[:3] == [WHOLE] * 3


@pytest.mark.parametrize(
    ("problem", "said"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB"), "out of memory"),
        (
            RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes"),
            "out of memory",
        ),
        (MemoryError(), "out of memory"),
        (ValueError("keep=4 is out of reach"), "keep=4 is out of reach"),
    ],
)
@pytest.mark.parametrize("when", [-1, 1])
def test_a_cell_that_fails_is_left_out_and_the_rest_go_on(
    make_shot, problem: Exception, said: str, when: int
):
    def trouble(cell: LatencyCell, number: int) -> None:
        if cell == GRID and number == when:
            raise problem

    rounds = Rounds(None, {}, {})
    found = timed(Fake(make_shot, trouble), rounds, 3)
    assert found.problems == {GRID: said}
    assert set(found.costs) == {WHOLE, FASTV}
    assert len(rounds.shots(FASTV)) == len(rounds.shots(WHOLE)) == 3


def test_other_errors_are_ours_and_stay(make_shot):
    def trouble(cell: LatencyCell, number: int) -> None:
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes do not match"):
        timed(Fake(make_shot, trouble), Rounds(None, {}, {}), 2)


def test_the_processors_clock_counts_this_process_alone(monkeypatch):
    busy = iter([2.0, 2.5])
    monkeypatch.setitem(NOW, "processor", lambda: next(busy))
    clock = clock_of(torch.device("cpu"), "processor")
    assert clock.seconds(clock.mark(), clock.mark()) == 0.5


def test_the_processors_clock_is_for_one_thread_on_a_cpu(monkeypatch):
    with pytest.raises(ValueError, match="set OMP_NUM_THREADS=1"):
        clock_of(torch.device("cuda"), "processor")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    with pytest.raises(ValueError, match="set OMP_NUM_THREADS=1"):
        clock_of(torch.device("cpu"), "processor")


def test_the_roof_is_a_rate():
    rate = roof(torch.device("cpu"), torch.float32, HostClock())
    assert rate is not None and 1e8 < rate < 1e15


def test_the_roof_is_two_operations_per_product_in_the_least_time(ticks):
    taken = iter([5.0, 4.0, 0.5, *[3.0] * 7])

    def product(*_: torch.Tensor) -> torch.Tensor:
        ticks.now += next(taken)
        return torch.empty(0)

    assert roof(torch.device("cpu"), torch.float32, ticks, product) == 2 * 1024**3 / 0.5
