"""What becomes of memory: whether it ran out, and who keeps what is freed."""

from __future__ import annotations

import ctypes
import sys

import torch

WORDS = ("out of memory", "not enough memory", "can't allocate memory")  # of torch, for GPUs and CPUs

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # options of glibc's mallopt


def ran_out(problem: BaseException) -> bool:
    """Whether an exception says that memory ran out, of a GPU or of the machine."""
    if isinstance(problem, torch.OutOfMemoryError | MemoryError):
        return True
    return any(words in str(problem).lower() for words in WORDS)


def keep_freed() -> None:
    """Have this process keep the memory that it frees, for what it asks for next.

    Large tensors come and go thousands of times per label; glibc gives their memory back to the system each
    time, which then has to clear it. Other C libraries are left alone.
    """
    if sys.platform == "linux" and hasattr(library := ctypes.CDLL(None), "mallopt"):
        library.mallopt(TRIM_THRESHOLD, 1 << 30)
        library.mallopt(MMAP_THRESHOLD, 32 << 20)  # the most that it takes
