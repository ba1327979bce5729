"""The number of times that the host waits for the device, or would wait if the model were on a GPU."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

READS = {  # names of the operations that need a tensor's values on the host
    "item", "tolist", "cpu", "nonzero", "bincount", "unique", "masked_select", "argwhere", "equal",
    "__bool__", "__int__", "__float__", "__index__",
}  # fmt: skip


class Counter(TorchFunctionMode):
    """Counts calls that read a tensor's values, or copy a list to the device, on any device."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        self.count += (
            name in READS
            or (name == "tensor" and bool(args) and isinstance(args[0], list | tuple) and len(args[0]) > 0)
            or (name == "where" and len(args) == 1)
            or (name in ("__getitem__", "__setitem__") and _reads(args[1]))
        )
        return func(*args, **(kwargs or {}))


def _reads(index: Any) -> bool:
    """Return whether this index needs values on the host: masks and zero-dimensional tensors do."""
    parts = index if isinstance(index, tuple) else (index,)
    return any(
        isinstance(part, torch.Tensor) and (part.dtype == torch.bool or part.ndim == 0) for part in parts
    )


@contextmanager
def counting_waits(device: torch.device) -> Iterator[list[int]]:
    """Yield a list that holds, after the block, the number of waits.

    CUDA counts them on a GPU; elsewhere the torch calls that would wait are counted.
    """
    found: list[int] = []
    if device.type != "cuda":
        with Counter() as counter:
            yield found
        found.append(counter.count)
        return
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield found
    finally:
        torch.cuda.set_sync_debug_mode(before)
    found.append(sum("synchronizing" in str(one.message) for one in caught))
