from __future__ import annotations

import pytest
import torch

from compress.memory import ran_out


@pytest.mark.parametrize(
    "problem",
    [
        MemoryError(),
        torch.OutOfMemoryError("Tried to allocate 20 GiB"),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("HIP Out Of Memory"),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes"),
        RuntimeError("[enforce fail] . DefaultCPUAllocator: can't allocate memory"),
    ],
    ids=str,
)
def test_memory_that_ran_out_is_told_by_kind_or_words(problem: Exception):
    assert ran_out(problem)


def test_memory_errors_are_told_from_others():
    assert not ran_out(RuntimeError("index out of range"))
