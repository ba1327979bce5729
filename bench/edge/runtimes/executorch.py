"""ExecuTorch: a program for each shape, lowered to XNNPACK's kernels for CPUs.

A vendor's partitioner in the place of XNNPACK's makes the same programs for a phone's NPU. Vision tower and
compressor run on ONNX Runtime.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray

from bench.edge.bundle import Bundle, Settings
from bench.edge.decoder import FixedDecoder
from bench.edge.extras import optional
from bench.edge.precision import Floats, Precision
from bench.edge.protocol import Protocol, variant
from bench.edge.runner import ChunkedRunner
from bench.edge.runtimes.onnx import example
from bench.edge.runtimes.ort import OrtParts

EXTRA = "executorch"


def export_decoder(decoder: FixedDecoder, protocol: Protocol, embeddings: Floats, folder: Path) -> None:
    """Write a program per variant, with weights of its own. The host looks embeddings up, no program does."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exir = optional("executorch.exir", EXTRA)
        xnnpack = optional("executorch.backends.xnnpack.partition.xnnpack_partitioner", EXTRA)
        for rows, context in protocol.variants:
            with torch.no_grad():
                traced = torch.export.export(decoder.eval(), example(decoder, rows, context))
            lowered = exir.to_edge_transform_and_lower(traced, partitioner=[xnnpack.XnnpackPartitioner()])
            lowered.to_executorch().save(str(folder / program(rows, context)))


def program(rows: int, context: int) -> str:
    """Name of the file."""
    return f"{variant(rows, context)}.pte"


class ExecuTorchBackend(OrtParts):
    """The decoder on ExecuTorch; `threads` are those of its pool, which the whole process shares."""

    padded = gaps = True

    def __init__(self, bundle: Bundle, threads: int = 0):
        super().__init__(bundle, threads)
        self._runners: dict[int, ExecuTorchRunner] = {}
        self._methods: dict[str, Any] = {}
        if threads:
            optional("executorch.extension.pybindings.portable_lib", EXTRA)._unsafe_reset_threadpool(threads)

    def runner(self, context: int) -> ExecuTorchRunner:
        if context not in self._runners:
            self._runners[context] = ExecuTorchRunner(self.bundle.settings, context, self.method)
        return self._runners[context]

    def method(self, rows: int, context: int) -> Any:
        """The program for calls of this shape, loaded when it is first needed."""
        name = program(rows, context)
        if name not in self._methods:
            runtime = optional("executorch.runtime", EXTRA).Runtime.get()
            self._methods[name] = runtime.load_program(self.bundle.folder / name).load_method("forward")
        return self._methods[name]


class ExecuTorchRunner(ChunkedRunner):
    """The decoder at one context; `methods` by rows and context."""

    def __init__(self, settings: Settings, context: int, methods: Callable[[int, int], Any]):
        super().__init__(settings, context)
        self.methods = methods

    def step(self, rows: int, feeds: dict[str, NDArray[Any]]) -> tuple[Floats, list[NDArray[Any]]]:
        made = self.methods(rows, self.context).execute([*map(torch.from_numpy, feeds.values())])
        logits, *new = (part.numpy() for part in made)
        return logits[0].copy(), new


def precision(head: int) -> Precision:
    """Of a decoder with heads of this width: the same of all."""
    return Precision(32, 32, 8)


def check(precision: Precision) -> None:
    """ValueError for what this backend does not compute in."""
    if (precision.weights, precision.activations) != (32, 32) or precision.cache == 16:
        raise ValueError(f"{precision.label}: ExecuTorch computes here in W32A32, with a KV8 or KV32 cache")
