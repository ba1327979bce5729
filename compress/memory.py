"""Memory: detect out-of-memory errors, retry with smaller batches, and keep freed memory in the process."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch

R = TypeVar("R")

WORDS = ("out of memory", "not enough memory", "can't allocate memory")  # messages of torch, GPU and CPU

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # options of glibc's mallopt


def ran_out(problem: BaseException) -> bool:
    """Return whether an exception reports that the memory of a GPU or of the machine ran out."""
    if isinstance(problem, torch.OutOfMemoryError | MemoryError):
        return True
    return any(words in str(problem).lower() for words in WORDS)


def in_batches(
    total: int, size: Callable[[int], int], work: Callable[[int, int], R], smaller: Callable[[int], None]
) -> Iterator[R]:
    """Yield the results of `work(start, count)` over items 0 .. `total` - 1, in order, each item once.

    `size(left)` returns the size of the next batch. If memory runs out, `smaller(count)` is called with the
    size that was too large; it must make `size` return less, or raise. The same items are then retried.
    """
    done = 0
    while done < total:
        count = size(total - done)
        if results := _tried(work, done, count):
            done += count
            yield from results
        else:  # the exception is released by now, and with its frames the tensors that filled the memory
            torch.cuda.empty_cache()
            smaller(count)


def _tried(work: Callable[[int, int], R], start: int, count: int) -> list[R]:
    """Return a list with the result, empty if memory ran out."""
    try:
        return [work(start, count)]
    except (RuntimeError, MemoryError) as problem:
        if not ran_out(problem):
            raise
        return []


def keep_freed() -> None:
    """Make this process keep freed memory for later allocations.

    Large tensors are allocated and freed thousands of times per label. Each time, glibc would return their
    memory to the system, which has to clear it. Other C libraries are not changed.
    """
    if sys.platform == "linux" and hasattr(library := ctypes.CDLL(None), "mallopt"):
        library.mallopt(TRIM_THRESHOLD, 1 << 30)
        library.mallopt(MMAP_THRESHOLD, 32 << 20)  # the maximum that glibc accepts
