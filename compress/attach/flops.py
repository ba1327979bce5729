"""Counts the FLOPs of matrix products inside a block of code, two operations per multiply-add."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch._C import DispatchKey
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry


class FlopCount(TorchDispatchMode):
    """A context that counts FLOPs in `found` by operator, with torch's formulas, without norms and softmax.

    torch's own `FlopCounterMode` also counts by module, and takes several times as long for every small
    operation: a greedy selection of 128 tokens runs hundreds of them.
    """

    supports_higher_order_operators = True

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()
        self._formulas = _formulas()

    @property
    def total(self) -> int:
        return self.found.total()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        formula = self._formulas.get(getattr(func, "_overloadpacket", None))
        if formula is None and _in_parts(func):  # only `torch.inference_mode` dispatches it undecomposed
            with self:
                return func.decompose(*args, **kwargs)
        result = func(*args, **kwargs)
        if formula is not None:
            self.found[str(func)] += formula(*args, **kwargs, out_val=result)
        return result


@cache
def _in_parts(func: Any) -> bool:
    """Whether an operator is composed of others."""
    return isinstance(func, torch._ops.OpOverload) and torch._C._dispatch_has_kernel_for_dispatch_key(
        func.name(), DispatchKey.CompositeImplicitAutograd
    )


def _formulas() -> dict[Any, Any]:
    """Operator -> function that computes FLOPs from its arguments and its result."""
    # torch has formulas for GPU kernels only; neither of these CPU kernels is in every build.
    kernels = {
        getattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu", None): _attention,
        getattr(torch.ops.mkldnn, "_linear_pointwise", None): _linear,
    }
    return flop_registry | {kernel: formula for kernel, formula in kernels.items() if kernel is not None}


def _linear(rows: Any, second: Any, third: Any = None, *_: Any, out_val: Any, **__: Any) -> int:
    """FLOPs for the arguments (rows, weight, bias or none), or (rows, addend, weight)."""
    outputs, inputs = (third if third is not None and third.ndim == 2 else second).shape
    return 2 * rows.shape[0] * int(outputs) * int(inputs)


def _attention(query: Any, key: Any, value: Any, *_: Any, out_val: Any, **__: Any) -> int:
    batch, heads, rows, width = query.shape
    return 2 * batch * heads * rows * key.shape[2] * (width + value.shape[3])
