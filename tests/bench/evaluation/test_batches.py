"""Batches that shrink when memory runs out: no sample lost, none twice, the same answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch

from baselines import METHODS
from bench.evaluation.batches import START, START_CPU, Batches
from bench.evaluation.compare import Entry, compare
from bench.evaluation.evaluate import Outcome, evaluate
from bench.report.table import notes
from bench.tasks import TASKS
from compress.memory import ran_out
from compress.models.loading import MLLM
from compress.samples import Sample

FULL = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: not enough memory: you tried to"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory"),
    MemoryError("Unable to allocate 7.28 TiB for an array"),
]


@contextmanager
def room_for(mllm: MLLM, samples: int, problem: BaseException = FULL[0]) -> Iterator[list[int]]:
    """The model's memory ends in the middle of the decoder when more samples come at once; yields the sizes
    that it saw."""
    seen: list[int] = []

    def check(module: Any, args: tuple[torch.Tensor, ...]) -> None:
        if args[0].shape[1] > 1:
            seen.append(len(args[0]))
        if len(args[0]) > samples:
            raise problem

    handle = mllm.decoder.layers[3].register_forward_pre_hook(check)
    try:
        yield seen
    finally:
        handle.remove()


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    return TASKS["gqa"]().micro(11)


def same(one: Outcome, other: Outcome) -> bool:
    return replace(one, batch=None) == replace(other, batch=None)


def limited(most: int) -> tuple[list[Sequence[int]], Callable[[Sequence[int]], list[int]]]:
    tried: list[Sequence[int]] = []

    def work(part: Sequence[int]) -> list[int]:
        tried.append(part)
        if len(part) > most:
            raise FULL[0]
        return [10 * one for one in part]

    return tried, work


def test_every_item_is_worked_on_once_and_in_order():
    tried, work = limited(5)
    batches = Batches(32, automatic=True)
    results = list(batches.over(range(23), work))
    assert [one for result in results for one in result] == [10 * one for one in range(23)]
    assert [len(part) for part in tried] == [23, 11, 5, 5, 5, 5, 3]
    assert batches.size == 5
    assert [len(result) for result in batches.over(range(7), work)] == [5, 2]  # it remembers


def test_a_size_that_was_asked_for_stays_or_is_refused():
    _, work = limited(5)
    with pytest.raises(ValueError, match="for 8 samples at a time: choose a smaller --batch, or"):
        list(Batches(8).over(range(20), work))
    assert [len(result) for result in Batches(4).over(range(9), work)] == [4, 4, 1]


def test_one_sample_that_does_not_fit_is_an_error_with_a_way_out():
    _, work = limited(0)
    with pytest.raises(ValueError, match="one sample at a time: choose --dtype bfloat16"):
        list(Batches(8, automatic=True).over(range(20), work))


def test_other_errors_are_not_taken_for_a_lack_of_memory():
    def work(part: Sequence[int]) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="shapes cannot"):
        list(Batches(8, automatic=True).over(range(20), work))
    assert all(map(ran_out, FULL)) and not ran_out(ValueError("out of reach"))


@pytest.mark.parametrize(("device", "start"), [("cpu", START_CPU), ("cuda", START)])
def test_the_first_size_is_the_devices_unless_one_is_asked_for(device: str, start: int):
    assert Batches.of(None, device) == Batches(start, automatic=True)
    assert Batches.of(5, device) == Batches(5, automatic=False)


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        *(("none", problem) for problem in FULL),
        *((name, FULL[0]) for name in ("fastv", "visionzip", "mustdrop")),
    ],
    ids=["none-cuda", "none-windows", "none-linux", "none-numpy", "fastv", "visionzip", "mustdrop"],
)
def test_answers_do_not_depend_on_how_often_memory_ran_out(tiny: MLLM, samples, name, problem):
    task, method = TASKS["gqa"](), METHODS[name]()
    keep = 144 if name == "none" else 40
    expected = evaluate(tiny, task, samples, method, keep, batch=16)
    with room_for(tiny, 3, problem) as seen:
        found = evaluate(tiny, task, samples, method, keep, batch=Batches(16, automatic=True))
    assert same(found, expected)
    assert seen == [11, 5, 2, 2, 2, 2, 2, 1] and found.batch == 2
    assert same(evaluate(tiny, task, samples, method, keep), expected)  # nothing stays attached


def test_the_probe_for_equal_flops_shrinks_as_well(tiny: MLLM, samples):
    task, method = TASKS["gqa"](), METHODS["fastv"]()
    expected = evaluate(tiny, task, samples, method, 60, match="flops")
    with room_for(tiny, 4):
        found = evaluate(tiny, task, samples, method, 60, match="flops", batch=Batches(16, automatic=True))
    assert same(found, expected) and found.batch == 2


def test_a_table_says_which_cells_took_smaller_batches(tiny: MLLM, samples, tmp_path):
    data = {TASKS["gqa"](): samples}
    entries = [Entry("grid", METHODS["grid"]())]
    compare(tiny, entries, [20], data, batch=Batches(8, automatic=True), folder=tmp_path, difficulty=None)
    with room_for(tiny, 4):
        found = compare(
            tiny, entries, [20, 30], data, batch=Batches(8, automatic=True), folder=tmp_path, difficulty=None
        )
    assert found.outcomes["grid", 20, "gqa"].batch == 8 and found.outcomes["grid", 30, "gqa"].batch == 4
    (line,) = (line for line in notes(found) if "batches" in line)
    assert line == "Samples in batches of 8, but of 4 for grid at 30 (gqa)."


def test_an_untouched_model_without_room_for_one_sample_ends_the_comparison(tiny: MLLM, samples):
    entries = [Entry("grid", METHODS["grid"]())]
    with room_for(tiny, 0), pytest.raises(ValueError, match="one sample at a time"):
        compare(tiny, entries, [20], {TASKS["gqa"](): samples}, batch=Batches(8, automatic=True))
