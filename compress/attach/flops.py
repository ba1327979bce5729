"""Counting the matrix products inside a block of code, two operations per multiply-add."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode


def counting() -> FlopCounterMode:
    """A context that counts, `get_total_flops()` says how many; norms and softmax are left out."""
    # torch knows the kernels of GPUs only, and neither of these is in every build.
    kernels = {
        getattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu", None): _attention,
        getattr(torch.ops.mkldnn, "_linear_pointwise", None): _linear,
    }
    known = {kernel: formula for kernel, formula in kernels.items() if kernel is not None}
    return FlopCounterMode(display=False, custom_mapping=known)


def _linear(
    rows: Sequence[int], second: Sequence[int], third: Sequence[int] | None, *_: Any, **__: Any
) -> int:
    """(rows, weight, bias or none), or (rows, what is added, weight)."""
    outputs, inputs = third if third and len(third) == 2 else second
    return 2 * rows[0] * int(outputs) * int(inputs)


def _attention(query: Sequence[int], key: Sequence[int], value: Sequence[int], *_: Any, **__: Any) -> int:
    batch, heads, rows, width = query
    return 2 * batch * heads * rows * key[2] * (width + value[3])
