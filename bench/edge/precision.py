"""Numbers of a fixed-shape decoder: dtypes, bits of precision, and an empty cache."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
MASKED = -1e9  # added to scores; finite, so that a fully masked row gives no NaN


@dataclass(frozen=True)
class Precision:
    """Bits that are used in the computation: of weights, activations and cache; 32 and 16 are floats.

    int4 weights are blocks of 32 with one scale; an int8 cache has a scale per head and token.
    """

    weights: int = 4
    activations: int = 8
    cache: int = 8

    @classmethod
    def parse(cls, label: str) -> Precision:
        """Parse a label such as W4A8KV8."""
        found = re.fullmatch(r"W(4|32)A(8|32)KV(8|16|32)", label.strip().upper())
        if not found:
            raise ValueError(
                f"--precision {label}: write W4 or W32, A8 or A32, and KV8, KV16 or KV32, as in W4A8KV8"
            )
        made = cls(*map(int, found.groups()))
        if made.weights == 32 and made.activations == 8:
            raise ValueError(f"--precision {label}: float weights have no int8 kernel; write W32A32")
        return made

    @property
    def label(self) -> str:
        return f"W{self.weights}A{self.activations}KV{self.cache}"


def empty_cache(
    precision: Precision, layers: int, heads: int, context: int, width: int
) -> dict[str, NDArray[Any]]:
    """Zeros by the names of the graph's inputs, [layers, heads, context, width or 1].

    Keys and values are float, or (`cache` 8) int8 with a scale for each vector.
    """
    kind, shape = (np.int8 if precision.cache == 8 else np.float32), (layers, heads, context)
    parts = {}
    for name in ("key", "value"):
        parts[f"{name}s"] = np.zeros((*shape, width), kind)
        if precision.cache == 8:
            parts[f"{name}_scales"] = np.zeros((*shape, 1), np.float32)
    return parts
