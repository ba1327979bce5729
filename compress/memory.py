"""Whether memory ran out, and how much of it to ask for."""

from __future__ import annotations

import torch

WORDS = ("out of memory", "not enough memory", "can't allocate memory")  # of torch, for GPUs and CPUs


def ran_out(problem: BaseException) -> bool:
    """Whether an exception says that memory ran out, of a GPU or of the machine."""
    if isinstance(problem, torch.OutOfMemoryError | MemoryError):
        return True
    return any(words in str(problem).lower() for words in WORDS)
