from __future__ import annotations

import platform
import subprocess
import sys

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


FRESH_PAGES = """
import resource
import torch
from compress.memory import keep_freed

keep_freed()  # tens of thousands without it

def pages():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        many = [torch.ones(300_000, dtype=torch.uint8) for _ in range(30)]
        del many
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

pages()
print(pages())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
def test_memory_that_is_freed_is_kept_for_what_comes_next() -> None:
    told = subprocess.run([sys.executable, "-c", FRESH_PAGES], check=True, capture_output=True).stdout
    assert int(told) < 1000
