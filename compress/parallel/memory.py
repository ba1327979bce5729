"""Memory: whether it ran out, smaller batches where it did, and who keeps what is freed."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch

R = TypeVar("R")

WORDS = ("out of memory", "not enough memory", "can't allocate memory")  # of torch, for GPUs and CPUs

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # options of glibc's mallopt


def ran_out(problem: BaseException) -> bool:
    """Whether an exception says that memory ran out, of a GPU or of the machine."""
    if isinstance(problem, torch.OutOfMemoryError | MemoryError):
        return True
    return any(words in str(problem).lower() for words in WORDS)


def in_batches(
    total: int, size: Callable[[int], int], work: Callable[[int, int], R], smaller: Callable[[int], None]
) -> Iterator[R]:
    """Results of `work(start, count)` over items 0 .. `total` - 1, in order, each item once.

    `size(left)` says how many go into the next batch. Where memory runs out, `smaller(count)` hears how many
    were too many: it makes `size` return less, or raises. The same items are then tried again.
    """
    done = 0
    while done < total:
        count = size(total - done)
        if results := _tried(work, done, count):
            done += count
            yield from results
        else:  # the exception is gone, and with its frames the tensors that filled the memory
            torch.cuda.empty_cache()
            smaller(count)


def _tried(work: Callable[[int, int], R], start: int, count: int) -> list[R]:
    """The result, or nothing if memory ran out."""
    try:
        return [work(start, count)]
    except (RuntimeError, MemoryError) as problem:
        if not ran_out(problem):
            raise
        return []


def keep_freed() -> None:
    """Have this process keep the memory that it frees, for what it asks for next.

    Large tensors come and go thousands of times per label; glibc gives their memory back to the system each
    time, which then has to clear it. Other C libraries are left alone.
    """
    if sys.platform == "linux" and hasattr(library := ctypes.CDLL(None), "mallopt"):
        library.mallopt(TRIM_THRESHOLD, 1 << 30)
        library.mallopt(MMAP_THRESHOLD, 32 << 20)  # the most that it takes
