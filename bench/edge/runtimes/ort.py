"""ONNX Runtime: every call has a fixed shape; each shape has its own graph, or one graph serves all."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from bench.edge.bundle import COMPRESSOR, DECODER, VISION, Bundle, BundleSettings
from bench.edge.extras import optional
from bench.edge.precision import Floats, Precision
from bench.edge.protocol import variant
from bench.edge.runner import ChunkedRunner


class OrtParts:
    """Vision tower and compressor of an exported folder, float, on `threads` threads (0: default)."""

    def __init__(self, bundle: Bundle, threads: int = 0):
        self.bundle, self.threads, self.label = bundle, threads, bundle.settings.precision

    def vision(self, pixels: Floats) -> Floats:
        (visual,) = self._vision.run(None, {"pixels": pixels})
        return visual

    def score(self, rows: Floats, present: Floats) -> Floats:
        (logits,) = self._compressor.run(None, {"rows": rows, "present": present})
        return logits

    @cached_property
    def _vision(self) -> Any:
        return session(self.bundle.folder / VISION, self.threads)

    @cached_property
    def _compressor(self) -> Any:
        return session(self.bundle.folder / COMPRESSOR, self.threads)


class OrtBackend(OrtParts):
    """The whole chain on ONNX Runtime's CPU kernels.

    All shapes use one session and one copy of the weights. `static` opens a session per shape, as a compiler
    for an NPU requires: the results are equal, and each session packs its own copy of the weights.
    """

    padded = gaps = True

    def __init__(self, bundle: Bundle, threads: int = 0, static: bool = False):
        super().__init__(bundle, threads)
        self.static = static
        self._runners: dict[int, OrtRunner] = {}
        self._sessions: dict[str, Any] = {}

    def runner(self, context: int) -> OrtRunner:
        if context not in self._runners:
            self._runners[context] = OrtRunner(self.bundle.settings, context, self.decoder)
        return self._runners[context]

    def decoder(self, rows: int, context: int) -> Any:
        """The session for calls of this shape, opened on first use."""
        name = f"{variant(rows, context)}.onnx" if self.static else DECODER
        if name not in self._sessions:
            self._sessions[name] = session(self.bundle.folder / name, self.threads)
        return self._sessions[name]


class OrtRunner(ChunkedRunner):
    """The decoder at one context; `sessions` by rows and context."""

    def __init__(self, settings: BundleSettings, context: int, sessions: Callable[[int, int], Any]):
        super().__init__(settings, context)
        self.sessions = sessions

    def step(self, rows: int, feeds: dict[str, NDArray[Any]]) -> tuple[Floats, list[NDArray[Any]]]:
        logits, *new = self.sessions(rows, self.context).run(None, feeds)
        return logits[0], new


def session(path: Path, threads: int) -> Any:
    onnxruntime = optional("onnxruntime", "edge")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def precision(head: int) -> Precision:
    """The default precision for heads of width `head`: the same for all."""
    return Precision(4, 8, 8)


def check(precision: Precision) -> None:
    """ValueError for a precision that this backend does not support."""
    if precision.cache == 16:
        raise ValueError(f"{precision.label}: the ONNX backend's cache is KV8 or KV32")
